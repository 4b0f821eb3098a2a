"""`peers predict`: prepare, submit what is missing, wait, sum up."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from peers.predict import fleet, kinds, models, outputs, record, submission
from peers.predict.errors import OutputError, PredictError
from peers.predict.prepare import Plan, prepare
from peers.predict.request import Request
from peers.predict.spec import Manifest, load_manifest
from peers.predict.summary import Summary, summarize
from peers.predict.watch import through_outages, watch

if TYPE_CHECKING:
    from peers.predict.record import Connection

Connect: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"

_NOBODY_AFTER: Final = 10
"""Looks without a live peer before we say so."""
_AGAIN_FOR_THE_LOST: Final = 3


@dataclass(frozen=True, slots=True)
class How:
    """What makes no difference to the output. `fleet`: a peer of our own, for the time of the run.

    `retry_dead`: first of all, rows that are dead get another chance.
    """

    fleet: fleet.Fleet | None = None
    retry_dead: bool = False


def predict(connect: Connect, url: str, request: Request, how: How) -> Summary:
    """Have the prediction made: by the peers there are, or by one of our own.

    The same request again does only what is missing. Raises PredictError and its kinds.
    """
    outputs.refuse_sources(request.output, input=request.input, model=request.model)
    plan = prepare(request)
    manifest = plan.manifest
    with connect() as connection:
        done = _begin(connection, plan, request, how)
    if done is not None:
        return done
    with ExitStack() as stack:
        look = _look_for_peers(connect, manifest)
        if how.fleet is not None:
            trust = models.Trust.from_environment().with_named(manifest.model)
            peer = stack.enter_context(fleet.own_peer(url, how.fleet, trust))
            look = partial(fleet.still_there, peer)
        try:
            return _to_the_end(connect, plan, request, look)
        except KeyboardInterrupt:
            _say(f"run {manifest.run} stays as it is; the same command goes on with it")
            raise


def _begin(connection: Connection, plan: Plan, request: Request, how: How) -> Summary | None:
    """Submit what is missing; the summary if nothing is."""
    manifest = plan.manifest
    _say_what_is_new(connection, manifest)
    if not request.overwrite:
        outputs.refuse_foreign(manifest)
    rival = record.rival(connection, manifest)
    if rival is not None:
        raise OutputError(
            f"run {rival} is not over, and writes {manifest.output} too",
            f"Wait for it (peers predict status {rival} --watch), or name another --output.",
        )
    if submission.submit(connection, plan, overwrite=request.overwrite):
        return None
    return _go_on(connection, plan, overwrite=request.overwrite, retry_dead=how.retry_dead)


def _to_the_end(
    connect: Connect, plan: Plan, request: Request, look: Callable[[], None]
) -> Summary:
    """Watch until the run is over; rows that died with their peers get another chance."""
    for _ in range(_AGAIN_FOR_THE_LOST):
        summary = through_outages(connect, lambda c: watch(c, plan.manifest, look))
        again = partial(_retry_the_lost, plan=plan, overwrite=request.overwrite)
        if summary.state != "done" or not through_outages(connect, again):
            return summary
    return through_outages(connect, lambda c: watch(c, plan.manifest, look))


def _retry_the_lost(connection: Connection, plan: Plan, *, overwrite: bool) -> bool:
    """Rows whose attempts were used up by the death of peers are dead for no fault of theirs."""
    lost = record.lost(connection, record.turns(connection, plan.manifest.run))
    if lost:
        _say(f"{len(lost):,} rows died with their peers: trying them again")
        submission.retry(connection, lost)
        submission.go_on(connection, plan, [], overwrite=overwrite)
    return bool(lost)


def status(connect: Connect, name: str, *, wait: bool = False) -> Summary:
    """How far the newest run of this name or id is, or `wait` until it is over, showing that.

    Raises PredictError if there is none.
    """
    with connect() as connection:
        found = record.find(connection, name)
        if found is None:
            raise _NoSuchRun(f"there is no run {name!r}", "Runs go by --run NAME, or by their id.")
        try:
            manifest = load_manifest(found[0])
        except OSError as error:
            raise PredictError(f"the run's manifest cannot be read: {error}") from error
        summary = summarize(connection, manifest)
    assert summary is not None
    return through_outages(connect, lambda c: watch(c, manifest)) if wait else summary


class _NoSuchRun(PredictError):  # noqa: N818 - a name says what is the matter
    """There is no run of this name."""

    exit_code = 4


def _say_what_is_new(connection: Connection, manifest: Manifest) -> None:
    """A changed model or input makes a new run: better to be told than to wonder."""
    if manifest.name is None:
        return
    found = record.find(connection, manifest.name)
    if found is None or found[1] == manifest.run:
        return
    try:
        before = load_manifest(found[0])
    except OSError:
        changes = ["its manifest is gone"]
    else:
        changes = list(_changes(before, manifest)) or ["the options are others"]
    _say(
        f"{' and '.join(changes)} since run {manifest.name} ({found[1]}): "
        f"this is a new run ({manifest.run})"
    )


def _changes(before: Manifest, now: Manifest) -> list[str]:
    return [
        f"the {what} has changed"
        for what, old, new in (
            ("model", before.model, now.model),
            ("input", before.input.digest, now.input.digest),
            ("output's place", before.output, now.output),
        )
        if old != new
    ]


def _go_on(
    connection: Connection, plan: Plan, *, overwrite: bool, retry_dead: bool
) -> Summary | None:
    """The run was submitted before: have done what is missing; its summary if nothing is."""
    manifest = plan.manifest
    summary = summarize(connection, manifest)
    assert summary is not None
    turns = record.turns(connection, manifest.run)
    rows = record.states(connection, turns, record.ROWS)
    dead = [row["id"] for row in rows if row["state"] == "dead"]
    if retry_dead and dead:
        _say(f"trying {len(dead):,} dead rows again")
        submission.retry(connection, dead)
    elif summary.state == "running":
        _say(f"going on with run {manifest.run}: {summary.handled:,} rows are done")
        return None
    elif summary.state == "done" and not overwrite and _is_whole(manifest, turns[-1], rows):
        _say(f"run {manifest.run} is done already: nothing is missing")
        return summary
    lost = _lost_parts(connection, manifest, turns)
    _say(
        f"going on with run {manifest.run}: it is {summary.state}"
        + (f", and {len(lost):,} parts have to be made anew" if lost else "")
    )
    submission.go_on(connection, plan, lost, overwrite=overwrite)
    return None


def _is_whole(manifest: Manifest, last: record.Turn, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the output is there, and nothing was mended since it was written."""
    assert last.written is not None
    predicted = last.written["alone"] - last.written["dead"]
    ended = Counter(row["state"] for row in rows)
    is_settled = not ended.keys() - {"completed", "dead", "cancelled"}
    return is_settled and ended["completed"] == predicted and outputs.is_written_by(manifest)


def _lost_parts(
    connection: Connection, manifest: Manifest, turns: Sequence[record.Turn]
) -> list[int]:
    """Chunks that are done, and whose parts are gone or damaged."""
    chunks = record.states(connection, turns, record.CHUNKS)
    done = {chunk["chunk"] for chunk in chunks if chunk["state"] == "completed"}
    gone = set(range(manifest.chunks)) - {chunk["chunk"] for chunk in chunks}
    return sorted(number for number in done | gone if not outputs.is_whole(manifest.folder, number))


def _look_for_peers(connect: Connect, manifest: Manifest) -> Callable[[], None]:
    """Says once when nobody is there to do the work."""
    kind = kinds.REMOTE if manifest.asynchronous else kinds.CHUNK
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks != _NOBODY_AFTER:
            return
        with connect() as connection:
            nobody = not record.live_peers(connection, kind)
        if nobody:
            _say(
                f"no live peer runs {kind}: start one with `peers run --app {kinds.APP} --queues "
                f"{kinds.QUEUE}=2`, or say --workers 2; the run waits meanwhile"
            )

    return look


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
