"""Submit to Peers in plain SQL: INSERT and COPY."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, ClassVar

import psycopg

from benchmarks.systems import graph_shapes, program

_KIND = "bench.noop"


class PeersProgram(program.Program):
    """One psycopg connection, as an application would have."""

    batch: ClassVar[int] = 20_000

    async def prepare(self) -> None:
        """Make the schema with `peers migrate`."""
        command = [sys.executable, "-m", "peers", "migrate", "--database-url", self.url]
        migrating = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        if code := await migrating.wait():
            raise RuntimeError(f"peers migrate ended with {code}")

    async def open(self) -> None:
        """Connect."""
        self._connection = psycopg.connect(self.url, autocommit=True)

    async def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    async def submit_one(self, number: int) -> None:
        """Insert one row."""
        self._connection.execute(
            "insert into peers.task (kind, args) values (%s, %s)",
            [_KIND, f'{{"number": {number}}}'],
        )

    async def submit_many(self, numbers: range) -> None:
        """Copy the rows."""
        rows = "".join(f'{_KIND}\t{{"number": {number}}}\n' for number in numbers)
        copy = "copy peers.task (kind, args) from stdin"
        with self._connection.cursor().copy(copy) as copying:
            copying.write(rows)

    async def graph(self, shape: str, size: int) -> dict[str, Any]:
        """Insert the tasks and their edges in one transaction."""
        tasks, edges = graph_shapes.edges_sql(shape, size)
        with self._connection.transaction():
            self._connection.execute(
                """
                create temporary table node on commit drop as
                with inserted as (
                    insert into peers.task (kind, args)
                    select %s, jsonb_build_object('number', n) from generate_series(0, %s - 1) n
                    order by n
                    returning id, args
                )
                select id, (args ->> 'number')::bigint as n from inserted
                """,
                [_KIND, tasks],
            )
            self._connection.execute("create unique index on node (n)")
            self._connection.execute("analyze node")
            inserted = self._connection.execute(
                f"""
                insert into peers.dependency (parent_id, child_id)
                select parent.id, child.id
                from ({edges}) edge
                join node parent on parent.n = edge.parent
                join node child on child.n = edge.child
                """
            )
        return {"tasks": tasks, "edges": inserted.rowcount}


if __name__ == "__main__":
    program.main(PeersProgram())
