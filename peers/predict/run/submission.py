"""Submit the tasks of a run: all of them, or only those that are missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from peers import ParentFailure, graph
from peers.predict import app
from peers.predict.errors import PredictError
from peers.predict.kinds import QUEUE, assemble_key, chunk_key
from peers.predict.run import record
from peers.predict.run.prepare import Plan

if TYPE_CHECKING:
    from peers import Node
    from peers.predict.run.record import Connection

_LIVE: Final = frozenset({"blocked", "scheduled", "ready", "running"})


def submit(connection: Connection, plan: Plan, *, overwrite: bool) -> bool:
    """Submit the chunks and the assembling task at once; return False if they are there already."""
    if record.turns(connection, plan.manifest.run):
        return False
    _submit(connection, plan, range(len(plan.chunks)), [], turn=1, overwrite=overwrite)
    return True


def go_on(connection: Connection, plan: Plan, lost: Collection[int], *, overwrite: bool) -> None:
    """Submit what is missing: chunks that are dead, cancelled or `lost`, and the output.

    Dead tasks are replaced, and discarded: they need no attention any more.
    """
    before = record.turns(connection, plan.manifest.run)
    chunks = record.states(connection, before, record.CHUNKS)
    dead = [chunk["id"] for chunk in chunks if chunk["state"] == "dead"]
    dead += [turn.id for turn in before if turn.state == "dead"]
    again = {*lost, *(one["chunk"] for one in chunks if one["state"] in {"dead", "cancelled"})}
    live = [one["id"] for one in chunks if one["state"] in _LIVE and one["chunk"] not in again]
    connection.execute("select peers.discard(id) from unnest(%s::bigint[]) as dead(id)", [dead])
    if again and before[-1].state in _LIVE:  # it does not wait for the new chunks
        connection.execute("select peers.cancel(%s)", [before[-1].id])
    if again or dead or before[-1].state not in _LIVE:
        turn = before[-1].turn + 1
        _submit(connection, plan, sorted(again), live, turn=turn, overwrite=overwrite)


def _submit(
    connection: Connection, plan: Plan, numbers: Sequence[int], parents: Sequence[int],
    *, turn: int, overwrite: bool,
) -> None:  # fmt: skip
    manifest = plan.manifest
    if turn > record.MOST_TURNS:
        raise PredictError(
            f"run {manifest.run} was resumed {record.MOST_TURNS} times, which is the most",
            "Use another --run NAME to start over.",
        )
    handler = app.remote if manifest.asynchronous else app.chunk
    metadata = {"run": manifest.run, "name": manifest.name}
    limit = manifest.concurrency
    with graph(connection) as g:
        nodes: list[Node] = []
        for number in numbers:
            chunk = plan.chunks[number]
            # a limit of requests at once is a shape of the graph: so many chains
            after = [nodes[-limit]] if limit and len(nodes) >= limit else []
            options = handler.options(
                idempotency_key=chunk_key(manifest.run, number, turn), queue=QUEUE,
                metadata=metadata,
            )  # fmt: skip
            nodes.append(g.add(
                options.after(after, on_parent_failure=ParentFailure.RUN if after else None),
                manifest=str(manifest.path), input=manifest.source, chunk=chunk.number,
                first=chunk.first, rows=chunk.rows,
            ))  # fmt: skip
        g.add(
            app.assemble.options(
                idempotency_key=assemble_key(manifest.run, turn, stage=1), queue=QUEUE,
                metadata=metadata, depends_on=[*nodes, *parents],
            ),
            manifest=str(manifest.path), turn=turn, overwrite=overwrite, stage=1,
        )  # fmt: skip


def retry(connection: Connection, ids: Sequence[int]) -> None:
    """Run dead tasks again, with fresh attempts."""
    connection.execute("select peers.retry(id) from unnest(%s::bigint[]) as dead(id)", [list(ids)])
