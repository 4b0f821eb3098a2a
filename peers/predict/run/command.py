"""`peers predict` and `peers predict status`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from peers.predict import kinds, outputs
from peers.predict.errors import OutputError, StorageFailed
from peers.predict.run import queries
from peers.predict.run.database import through_outages
from peers.predict.run.messages import say
from peers.predict.run.prepare import Plan, prepare
from peers.predict.run.request import Request
from peers.predict.run.run import Run, kind_of_chunks
from peers.predict.run.runs import conflicting_run, manifest_of
from peers.predict.run.summary import Summary
from peers.predict.spec import Manifest, load_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.predict.run.database import Connect, Connection
    from peers.predict.run.own_peer import OwnPeer

_LOOKS_BEFORE_WARNING: Final = 10
_RETRIES_OF_LOST_ROWS: Final = 3


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options that make no difference to the output.

    `peer`: the peer that the command started for the run. `retry_dead`: retry dead rows first.
    """

    peer: OwnPeer | None = None
    retry_dead: bool = False


def predict(connect: Connect, request: Request, options: RunOptions) -> Summary:
    """Prepare a run, submit what is missing of it, and wait until it is over.

    The same request again does only what is missing. Raises PredictError and its subclasses.
    """
    plan = prepare(request, options.peer)
    manifest = plan.manifest
    with connect() as connection:
        summary = _begin(connection, plan, request, retry_dead=options.retry_dead)
    if summary is not None:
        return summary
    try:
        return _wait_to_the_end(connect, plan, request, options.peer)
    except KeyboardInterrupt:
        say(
            f"run {manifest.run} continues without this command: run the same command again to "
            f"watch it, or end it with `peers predict cancel {manifest.run}`"
        )
        raise


def status(connect: Connect, name: str, *, wait: bool = False) -> Summary:
    """Return the summary of the newest run with this name or id; `wait`: watch it to its end.

    Raises NoSuchRun.
    """
    with connect() as connection:
        manifest = manifest_of(connection, name)
        summary = Run.open(connection, manifest).summary()
    return through_outages(connect, lambda c: Run.open(c, manifest).watch()) if wait else summary


def cancel(connect: Connect, name: str) -> tuple[Summary, int]:
    """Cancel the newest run with this name or id; return its summary and the number of tasks.

    Raises NoSuchRun, RunState.
    """
    with connect() as connection:
        return Run.open(connection, manifest_of(connection, name)).cancel()


def _begin(
    connection: Connection, plan: Plan, request: Request, *, retry_dead: bool
) -> Summary | None:
    """Submit what is missing; return the summary if nothing is."""
    manifest = plan.manifest
    _say_why_new(connection, manifest)
    if not request.overwrite:
        outputs.refuse_foreign_output(manifest)
    other = conflicting_run(connection, manifest)
    if other is not None:
        raise OutputError(
            f"run {other} is under way and will write {manifest.output} as well",
            f"Wait for it (peers predict status {other} --watch), cancel it (peers predict cancel "
            f"{other}), or name another --output.",
        )
    if Run.submit(connection, plan, overwrite=request.overwrite) is not None:
        return None
    run = Run.open(connection, manifest)
    return run.resume(plan, overwrite=request.overwrite, retry_dead=retry_dead)


def _wait_to_the_end(
    connect: Connect, plan: Plan, request: Request, peer: OwnPeer | None
) -> Summary:
    """Watch until the run is over; retry rows that died with their peers."""
    manifest = plan.manifest
    on_look = _warn_without_peers(connect, manifest) if peer is None else peer.require_alive

    def watched(connection: Connection) -> Summary:
        return Run.open(connection, manifest).watch(on_look, has_own_peer=peer is not None)

    def retry_lost(connection: Connection) -> bool:
        return Run.open(connection, manifest).retry_lost_rows(plan, overwrite=request.overwrite)

    for _ in range(_RETRIES_OF_LOST_ROWS):
        summary = through_outages(connect, watched)
        if summary.state != "done" or not through_outages(connect, retry_lost):
            return summary
    return through_outages(connect, watched)


def _say_why_new(connection: Connection, manifest: Manifest) -> None:
    """Say that this is a new run, and why, if there is another one with the same name."""
    if manifest.name is None:
        return
    found = queries.find_graph(connection, manifest.name)
    if found is None or found["run"] == manifest.run:
        return
    try:
        before = load_manifest(found["manifest"])
    except StorageFailed:
        changes = ["its manifest is gone"]
    else:
        changes = list(_changes(before, manifest)) or ["other options were given"]
    say(
        f"{' and '.join(changes)} since run {manifest.name} ({found['run']}): "
        f"this is a new run ({manifest.run})"
    )


def _changes(before: Manifest, now: Manifest) -> Iterator[str]:
    for what, old, new in (
        ("model", before.model, replace(now.model, access=before.model.access)),
        ("input", before.input.digest, now.input.digest),
        ("output's path", before.output, now.output),
    ):
        if old != new:
            yield f"the {what} has changed"


def _warn_without_peers(connect: Connect, manifest: Manifest) -> Callable[[], None]:
    """Return a function that says once, after several looks, that no peer can run the tasks."""
    kind = kind_of_chunks(manifest)
    looks = 0

    def on_look() -> None:
        nonlocal looks
        looks += 1
        if looks != _LOOKS_BEFORE_WARNING:
            return
        with connect() as connection:
            peers = queries.live_peers(connection, kind)
        if not peers:
            say(
                f"the run waits for a peer: no live peer runs {kind}. Start one on the same "
                f"database (also --embedded) with `peers run --app {kinds.APP} --queues "
                f"{kinds.QUEUE}=2`, or use --workers 2"
            )

    return on_look
