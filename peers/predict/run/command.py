"""`peers predict`: prepare, submit what is missing, wait, sum up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from peers.predict import kinds, outputs
from peers.predict.errors import NoSuchRun, OutputError
from peers.predict.run import own_peer, record, resume, submission
from peers.predict.run.prepare import Plan, prepare
from peers.predict.run.request import Request
from peers.predict.run.summary import Summary, summarize
from peers.predict.run.watch import say, through_outages, watch
from peers.predict.spec import Manifest, load_manifest

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

Connect: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"

_NOBODY_AFTER: Final = 10
"""Looks without a live peer before we say so."""
_AGAIN_FOR_THE_LOST: Final = 3


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What makes no difference to the output. `peer`: our own, which was started for the run.

    `retry_dead`: rows that are dead get another chance first.
    """

    peer: own_peer.OwnPeer | None = None
    retry_dead: bool = False


def predict(connect: Connect, request: Request, options: RunOptions) -> Summary:
    """Have the prediction made by the peers that run, or by one of our own.

    The same request again does only what is missing. Raises PredictError and its kinds.
    """
    plan = prepare(request, how.peer)
    manifest = plan.manifest
    with connect() as connection:
        done = _begin(connection, plan, request, how)
    if done is not None:
        return done
    if how.peer is None:
        look = _look_for_peers(connect, manifest)
    else:
        look = partial(own_peer.still_there, how.peer)
    try:
        return _to_the_end(connect, plan, request, look)
    except KeyboardInterrupt:
        say(
            f"run {manifest.run} stays as it is: the same command goes on with it, and "
            f"`peers predict cancel {manifest.run}` ends it"
        )
        raise


def _begin(
    connection: Connection, plan: Plan, request: Request, options: RunOptions
) -> Summary | None:
    """Submit what is missing; return the summary if nothing is."""
    manifest = plan.manifest
    resume.say_what_is_new(connection, manifest)
    if not request.overwrite:
        outputs.refuse_foreign_output(manifest)
    conflicting = record.conflicting_run(connection, manifest)
    if conflicting is not None:
        raise OutputError(
            f"run {conflicting} is not over, and writes {manifest.output} too",
            f"Wait for it (peers predict status {conflicting} --watch), end it (peers predict cancel "
            f"{conflicting}), or name another --output.",
        )
    if submission.submit(connection, plan, overwrite=request.overwrite):
        return None
    return resume.go_on(connection, plan, overwrite=request.overwrite, retry_dead=how.retry_dead)


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
    """Retry rows whose attempts were used up by the death of peers: that is not their fault."""
    lost = record.lost(connection, record.turns(connection, plan.manifest.run))
    if lost:
        say(f"{len(lost):,} rows died with their peers: trying them again")
        submission.retry(connection, lost)
        submission.go_on(connection, plan, [], overwrite=overwrite)
    return bool(lost)


def status(connect: Connect, name: str, *, wait: bool = False) -> Summary:
    """Return how far the newest run of this name or id is; `wait` until it is over, showing that.

    Raises PredictError if there is none.
    """
    with connect() as connection:
        manifest = manifest_of(connection, name)
        summary = summarize(connection, manifest)
    assert summary is not None
    return through_outages(connect, lambda c: watch(c, manifest)) if wait else summary


def manifest_of(connection: Connection, name: str) -> Manifest:
    """Return the manifest of the newest run of this name or id. Raises PredictError."""
    found = record.find(connection, name)
    if found is None:
        raise NoSuchRun(f"there is no run {name!r}", "`peers predict list` shows all runs.")
    return load_manifest(found[0])


def _look_for_peers(connect: Connect, manifest: Manifest) -> Callable[[], None]:
    """Return what says once that no peer is there to do the work."""
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
            say(
                f"no live peer runs {kind}: start one on the same database (also --embedded) with "
                f"`peers run --app {kinds.APP} --queues {kinds.QUEUE}=2`, or use --workers 2; the "
                "run waits for it"
            )

    return look
