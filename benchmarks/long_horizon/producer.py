"""Insert tasks, at the rate or up to the depth that the harness asks for."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.long_horizon.meters import Meter, Reader, now
from benchmarks.long_horizon.options import Options
from benchmarks.long_horizon.pacing import Credit, missing

_INSERT: Final = (
    "insert into peers.task (kind, args)"
    " select 'bench.job', a.args from jsonb_array_elements(%s::jsonb) a(args)"
)
_PATIENCE: Final = 0.2
"""Seconds between two looks whether to stop."""
_LOOK_AGAIN: Final = 0.005
_FIND_EVERY: Final = 0.5
"""Seconds between two looks for new workers."""
_RECONNECT: Final = 0.2


class Producer(threading.Thread):
    """Inserts in a thread of its own, until it is stopped.

    A batch whose INSERT fails is given up: whether it was committed is unknown. It counts as not
    enqueued.
    """

    def __init__(self, options: Options, meter: Meter, folder: Path, credit: Credit) -> None:
        super().__init__(name="producer", daemon=True)
        self._options = options
        self._meter = meter
        self._reader = Reader(folder)
        self._found_at = 0.0
        self._credit = credit
        self._stopped = threading.Event()
        self._sequence = 0
        self._padding = "x" * options.payload_bytes

    def stop(self) -> None:
        """Ask the thread to end after the present batch."""
        self._stopped.set()

    def run(self) -> None:
        """Insert batch after batch, and reconnect when the connection is lost."""
        while not self._stopped.is_set():
            try:
                self._produce()
            except psycopg.Error as error:
                print(f"the producer connects again: {error}", file=sys.stderr)
            self._stopped.wait(_RECONNECT)

    def _produce(self) -> None:
        url = self._options.database_url
        with psycopg.connect(url, autocommit=True, application_name="producer") as connection:
            while not self._stopped.is_set():
                if wanted := self._wanted():
                    connection.execute(_INSERT, [self._batch(wanted)])
                    self._meter.enqueued(wanted)

    def _wanted(self) -> int:
        options = self._options
        if not options.depth_target:
            return self._credit.take(options.batch_max, _PATIENCE)
        if time.monotonic() > self._found_at + _FIND_EVERY:
            self._reader.find()
            self._found_at = time.monotonic()
        done = self._reader.counts()
        wanted = missing(options.target_depth, done.enqueued, done.started, options.batch_max)
        if not wanted:
            time.sleep(_LOOK_AGAIN)
        return wanted

    def _batch(self, tasks: int) -> str:
        first, self._sequence = self._sequence, self._sequence + tasks
        rest = f',"inserted_at":{now()},"padding":"{self._padding}"}}'
        return "[" + ",".join(f'{{"seq":{first + n}{rest}' for n in range(tasks)) + "]"


class Clock(threading.Thread):
    """Adds to the credit as time passes, for a harness that does not ask on stdin."""

    def __init__(self, credit: Credit, every: float) -> None:
        super().__init__(name="clock", daemon=True)
        self._credit = credit
        self._every = every

    def run(self) -> None:
        """Credit the time that has really passed, not the nominal period."""
        last = time.monotonic()
        while True:
            time.sleep(self._every)
            last, passed = (reading := time.monotonic()), reading - last
            self._credit.pass_time(passed)


class Requests(threading.Thread):
    """Reads what the harness asks for on stdin."""

    def __init__(self, credit: Credit) -> None:
        super().__init__(name="requests", daemon=True)
        self._credit = credit

    def run(self) -> None:
        """Read until the harness closes the pipe."""
        self._credit.read(sys.stdin)
