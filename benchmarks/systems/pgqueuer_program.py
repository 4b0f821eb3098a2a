"""PgQueuer: claims and completions in batches, submission of whole lists."""

from __future__ import annotations

from typing import Final

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.systems import program
from benchmarks.systems.recording import record_start

_BATCH: Final = 1000
_NAME: Final = "noop"


class PgQueuerProgram(program.Program):
    """One asyncpg connection."""

    async def prepare(self) -> None:
        """Install its tables."""
        await self.open()
        await self._queries.install()
        await self.close()

    async def open(self) -> None:
        """Connect."""
        self._connection = await asyncpg.connect(self.url)
        self._queries = Queries(AsyncpgDriver(self._connection))

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()

    async def submit_one(self, number: int) -> None:
        """Enqueue one job."""
        await self._queries.enqueue(_NAME, b"%d" % number, 0)

    async def submit_many(self, numbers: range) -> None:
        """Enqueue lists."""
        payloads: list[bytes | None] = [b"%d" % number for number in numbers]
        await self._queries.enqueue([_NAME] * len(numbers), payloads, [0] * len(numbers))

    async def work(self) -> None:
        """Run jobs."""
        await self.open()
        manager = QueueManager(Queries(AsyncpgDriver(self._connection)))

        async def noop(job: Job) -> None:
            record_start(int(job.payload))

        manager.entrypoint(_NAME)(noop)
        await manager.run(batch_size=_BATCH)


if __name__ == "__main__":
    uvloop.install()
    program.main(PgQueuerProgram())
