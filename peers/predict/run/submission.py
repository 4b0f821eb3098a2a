"""Submit tasks of a run: chunks, and the task that assembles the output after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peers import ParentFailure, graph
from peers.predict import app
from peers.predict.kinds import QUEUE, assemble_key, chunk_key

if TYPE_CHECKING:
    from peers import Node
    from peers.predict.run.database import Connection
    from peers.predict.run.prepare import Plan


def submit(
    connection: Connection, plan: Plan, graph_id: int, chunks: Sequence[int],
    parents: Sequence[int], submission: int, *, overwrite: bool,
) -> None:  # fmt: skip
    """Submit these chunks, and an assembling task that waits for them and for `parents`."""
    manifest = plan.manifest
    metadata = {"run": manifest.run, "name": manifest.name}
    handler = app.remote if manifest.asynchronous else app.chunk
    options = handler.options(queue=QUEUE, metadata=metadata, graph=graph_id)
    limit = manifest.concurrency
    with graph(connection) as g:
        nodes: list[Node] = []
        for number in chunks:
            chunk = plan.chunks[number]
            # --concurrency is a shape of the graph: so many chains of chunks
            after = [nodes[-limit]] if limit and len(nodes) >= limit else []
            chunk_options = options.options(
                idempotency_key=chunk_key(manifest.run, number, submission)
            )
            nodes.append(g.add(
                chunk_options.after(
                    after, on_parent_failure=ParentFailure.RUN if after else None
                ),
                manifest=str(manifest.path), graph=graph_id, input=manifest.source,
                chunk=chunk.number, first=chunk.first, rows=chunk.rows,
            ))  # fmt: skip
        g.add(
            app.assemble.options(
                idempotency_key=assemble_key(manifest.run, submission, stage=1), queue=QUEUE,
                metadata=metadata, graph=graph_id, depends_on=[*nodes, *parents],
            ),
            manifest=str(manifest.path), graph=graph_id, submission=submission,
            overwrite=overwrite, stage=1,
        )  # fmt: skip
