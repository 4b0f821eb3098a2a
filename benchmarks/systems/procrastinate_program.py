"""Procrastinate: one fetch and one completion for each job, many jobs at once."""

from __future__ import annotations

import os
from typing import ClassVar, Final

import procrastinate
import uvloop

from benchmarks.systems import program
from benchmarks.systems.recording import record_start

_CONCURRENCY: Final = 20
_POOL: Final = 10
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["BENCHMARK_URL"], min_size=1, max_size=_POOL
    )
)


async def _noop(number: int) -> None:
    record_start(number)


noop = app.task(name="noop", queue="noop")(_noop)


class ProcrastinateProgram(program.Program):
    """Its own pool of connections."""

    batch: ClassVar[int] = 1000

    async def prepare(self) -> None:
        """Apply its schema."""
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        """Open the pool."""
        await app.open_async()

    async def close(self) -> None:
        """Close the pool."""
        await app.close_async()

    async def submit_one(self, number: int) -> None:
        """Defer one job."""
        await noop.defer_async(number=number)

    async def submit_many(self, numbers: range) -> None:
        """Defer jobs in one statement."""
        await noop.batch_defer_async(*({"number": number} for number in numbers))

    async def work(self) -> None:
        """Run jobs."""
        async with app.open_async():
            await app.run_worker_async(queues=["noop"], concurrency=_CONCURRENCY)


if __name__ == "__main__":
    uvloop.install()
    program.main(ProcrastinateProgram())
