"""`peers predict`: prepare, submit what is missing, wait, sum up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.predict import fleet, kinds, outputs, record
from peers.predict.apart import prepare_apart
from peers.predict.errors import OutputError, PredictError
from peers.predict.prepare import Plan, trusted
from peers.predict.request import Request
from peers.predict.spec import Manifest, load_manifest
from peers.predict.summary import Summary, summarize
from peers.predict.watch import watch

if TYPE_CHECKING:
    from peers.predict.record import Connection

_NOBODY_AFTER: Final = 10
"""Looks without a live peer before we say so."""


def predict(connection: Connection, url: str, request: Request, own: fleet.Fleet | None) -> Summary:
    """Have the prediction made: by the peers there are, or by one of our own.

    The same request again does only what is missing. Raises PredictError and its kinds.
    """
    plan = prepare_apart(request)
    manifest = plan.manifest
    _refuse_foreign_output(manifest, overwrite=request.overwrite)
    _say_what_is_new(connection, manifest)
    if not record.submit(connection, plan, overwrite=request.overwrite):
        done = _go_on(connection, manifest, overwrite=request.overwrite)
        if done is not None:
            return done
    with ExitStack() as stack:
        look = _look_for_peers(connection, plan)
        if own is not None:
            peer = stack.enter_context(fleet.own_peer(url, own, trusted(manifest.model)))
            look = lambda: fleet.still_there(peer)  # noqa: E731
        return watch(connection, manifest, look)


def status(connection: Connection, name: str, *, wait: bool = False) -> Summary:
    """How far the newest run of this name or id is, or `wait` until it is over, showing that.

    Raises PredictError if there is none.
    """
    found = record.find(connection, name)
    if found is None:
        raise _NoSuchRun(f"there is no run {name!r}", "Runs go by --run NAME, or by their id.")
    try:
        manifest = load_manifest(found[0])
    except OSError as error:
        raise PredictError(f"the run's manifest cannot be read: {error}") from error
    if wait:
        connection.autocommit = True
        return watch(connection, manifest)
    summary = summarize(connection, manifest)
    assert summary is not None
    return summary


class _NoSuchRun(PredictError):  # noqa: N818 - a name says what is the matter
    """There is no run of this name."""

    exit_code = 4


def _refuse_foreign_output(manifest: Manifest, *, overwrite: bool) -> None:
    output = Path(manifest.output)
    if overwrite or not output.exists():
        return
    if outputs.belongs_to(output) != manifest.run:
        raise OutputError(
            f"{output} exists with other contents than this run's",
            "Move it away, name another --output, or say --overwrite.",
        )


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


def _go_on(connection: Connection, manifest: Manifest, *, overwrite: bool) -> Summary | None:
    """The run was submitted before: have done what is missing; its summary if nothing is."""
    summary = summarize(connection, manifest)
    assert summary is not None
    if summary.state == "cancelled":
        raise PredictError(
            f"run {manifest.run} was cancelled", "Give it another --run NAME to start it afresh."
        )
    if summary.state == "stuck":
        ids = [task["task_id"] for task in summary.dead_tasks]
        _say(f"going on with run {manifest.run}: trying {len(ids)} dead tasks again")
        record.retry(connection, ids)
        return None
    if summary.state == "running":
        _say(f"going on with run {manifest.run}: {summary.handled:,} rows are done")
        return None
    still_dead = {letter["task_id"] for letter in record.dead_letters(
        connection, [row.task_id for row in summary.dead_rows]
    )}  # fmt: skip
    retried = len(still_dead) < len(summary.dead_rows)
    if not retried and Path(manifest.output).exists() and not overwrite:
        _say(f"run {manifest.run} is done already: nothing is missing")
        return summary
    record.assemble_again(connection, manifest, overwrite=overwrite)
    return None


def _look_for_peers(connection: Connection, plan: Plan) -> Callable[[], None]:
    """Says once when nobody is there to do the work."""
    kind = kinds.REMOTE if plan.asynchronous else kinds.CHUNK
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == _NOBODY_AFTER and not record.live_peers(connection, kind):
            _say(
                f"no live peer runs {kind}: start one with `peers run --app {kinds.APP} --queues "
                f"{kinds.QUEUE}=2`, or say --workers 2; the run waits meanwhile"
            )

    return look


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
