"""What a worker's handlers print and log, of kinds that keep their logs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final

from peers.pool.executions import Execution, Executions
from peers.pool.lease import Lease
from peers.pool.log_tail import KeptText, LogTail
from peers.protocol.output import Output, OutputParser

_READ_SIZE: Final = 64 << 10
_READ_AT_ONCE: Final = 2
"""Pieces in one turn: other workers and the database wait meanwhile."""
_READ_AT_THE_END: Final = 32
"""Pieces before an outcome. The pipe holds one; a program that a handler left may go on writing."""
_FOLLOWED_FOR: Final = 15.0
_FOLLOWED_EVERY: Final = 1.0
_STORED_AFTER: Final = 10.0
"""When the log of a running attempt is stored for the first time, in case its peer is lost."""
_STORED_EVERY_AT_MOST: Final = 60.0
_FORGET_MORE_THAN: Final = 16
_LONGEST_LINE: Final = 16 << 10


class _Log:
    """The log of a handler call that runs, and when to store it next."""

    def __init__(self, execution_id: int, span: int, now: float) -> None:
        self.execution_ids = range(execution_id, execution_id + span)
        self.tail = LogTail()
        self.line = b""
        """What a program has printed since its last end of a line."""
        self.stored_size = 0
        self._wait = _STORED_AFTER
        self._store_at = now + self._wait
        self._followed_until = 0.0

    @property
    def is_followed(self) -> bool:
        """Return whether an operator has followed it."""
        return self._followed_until > 0

    @property
    def was_stored(self) -> bool:
        """Return whether the database has an earlier state of it."""
        return self.stored_size > 0

    def follow(self, now: float) -> None:
        """Store it every second for a while."""
        self._followed_until = now + _FOLLOWED_FOR
        self._store_at = min(self._store_at, now)

    def due_at(self) -> float:
        """Return when (monotonic) to store it; never while it does not change."""
        return self._store_at if self.tail.size != self.stored_size else float("inf")

    def take(self, now: float) -> KeptText:
        """Return the text to store now."""
        self.stored_size = self.tail.size
        if now < self._followed_until:
            self._store_at = now + _FOLLOWED_EVERY
        else:
            self._wait = min(2 * self._wait, _STORED_EVERY_AT_MOST)
            self._store_at = now + self._wait
        return self.tail.read()


class WorkerOutput:
    """Reads the output pipe of a worker.

    `policies`: "failed" or "always" for each kind that keeps its logs.
    """

    def __init__(
        self, descriptor: int, executions: Executions, policies: Mapping[str, str]
    ) -> None:
        self.descriptor = descriptor
        self._executions = executions
        self._policies = policies
        self._parser = OutputParser()
        self._logs: dict[int, _Log] = {}
        """By the first execution id of the handler call."""
        self._redirected = 0
        """The call whose standard output is the pipe."""
        self._batches: dict[int, _Log] = {}
        """Those of batches."""
        self.is_closed = False
        """The worker has closed its end, or is dead."""
        self.is_busy = False
        """There was more than could be read at once."""
        self.read_at = float("inf")
        """When (monotonic) to select for it again."""

    # ------------------------------------------------------------------------------------ reading

    def read(self, now: float, pieces: int = _READ_AT_ONCE) -> Iterator[tuple[Lease, bytes]]:
        """Read some of what has come; yield the lines that programs of handlers have printed."""
        self.is_busy = False
        for _ in range(pieces):
            try:
                data = os.read(self.descriptor, _READ_SIZE)
            except OSError:  # empty
                return
            self.is_closed = not data
            for part in self._parser.feed(data):
                yield from self._take(part, now)
            self.is_busy = len(data) == _READ_SIZE
            if not self.is_busy:
                return

    def read_rest(self, now: float) -> Iterator[tuple[Lease, bytes]]:
        """Read what was printed before an outcome that has come, or before the worker's end."""
        return self.read(now, _READ_AT_THE_END)

    def _take(self, part: Output, now: float) -> Iterator[tuple[Lease, bytes]]:
        execution_id = self._redirected if part.execution_id is None else part.execution_id
        if part.span:
            self._redirected = execution_id
            yield from self._begin(execution_id, part.span, now)
            return
        log = self._logs.get(execution_id)
        if log is None:
            if self._executions.find(execution_id) is None:
                return  # the call is over
            log = self._logs[execution_id] = _Log(execution_id, 1, now)
        if part.execution_id is None:
            log.tail.append_raw(part.text)
            yield from self._lines(log, part.text)
        else:
            log.tail.append(part.text)

    def _begin(self, execution_id: int, span: int, now: float) -> Iterator[tuple[Lease, bytes]]:
        earlier = self._logs.get(execution_id)
        if earlier is not None:  # of a batch that is bisected
            yield from self._lines(earlier, b"\n" if earlier.line else b"")
        self._batches.pop(execution_id, None)
        log = self._logs[execution_id] = _Log(execution_id, span, now)
        if span > 1:
            self._batches[execution_id] = log  # behind those that began earlier
        if len(self._logs) > 2 * len(self._executions) + _FORGET_MORE_THAN:
            self._forget_ended()

    def _lines(self, log: _Log, text: bytes) -> Iterator[tuple[Lease, bytes]]:
        """Yield complete lines, with the lease of the first task of the call that still runs."""
        *lines, log.line = (log.line + text).split(b"\n")
        if len(log.line) > _LONGEST_LINE:
            lines.append(log.line)
            log.line = b""
        if lines and (lease := self._lease(log)) is not None:
            yield from ((lease, line) for line in lines)

    def _lease(self, log: _Log) -> Lease | None:
        for execution_id in log.execution_ids:
            execution = self._executions.find(execution_id)
            if execution is not None:
                return execution.lease(execution_id)
        return None

    # ----------------------------------------------------------------------------------- outcomes

    def failed(self, execution_id: int) -> KeptText | None:
        """Return the log of an attempt that has failed; None: it has printed nothing."""
        log = self._take_log(execution_id)
        return None if log is None or not log.tail.size else log.tail.read()

    def completed(self, execution: Execution) -> Iterator[tuple[Lease, KeptText | None]]:
        """Yield which logs of completed attempts to store; None: delete what was stored before."""
        if not self._logs:
            return
        kind = execution.run.claim.kind(execution.run.first)  # of all of them
        always = self._policies.get(kind) == "always"
        for execution_id in range(execution.execution_id, execution.stop):
            log = self._take_log(execution_id)
            if log is None:
                continue
            if log.is_followed or always:
                if log.tail.size:
                    yield execution.lease(execution_id), log.tail.read()
            elif log.was_stored:
                yield execution.lease(execution_id), None

    def _take_log(self, execution_id: int) -> _Log | None:
        """Return the log of a call, and forget it unless other tasks of its batch need it."""
        log = self._logs.get(execution_id)
        if log is not None and len(log.execution_ids) == 1:
            return self._logs.pop(execution_id)
        of_batches = (
            log for log in reversed(self._batches.values()) if execution_id in log.execution_ids
        )
        return next(of_batches, None)

    def _forget_ended(self) -> None:
        """Forget the logs of batches that are over, and of tasks that run again elsewhere."""
        for first, log in list(self._logs.items()):
            if not any(self._executions.find(each) for each in log.execution_ids):
                del self._logs[first]
                self._batches.pop(first, None)

    # ------------------------------------------------------------------------------ while they run

    def follow(self, task_id: int, now: float) -> None:
        """Store the log of this task every second for a while, if it runs here."""
        for log in self._logs.values():
            if any(lease.task.task_id == task_id for _, lease in self._leases(log)):
                log.follow(now)

    def due(self, now: float) -> Iterator[tuple[Lease, KeptText]]:
        """Yield the logs of running attempts that should be stored now."""
        for log in self._logs.values():
            if log.due_at() <= now:
                text = log.take(now)
                for _, lease in self._leases(log):
                    yield lease, text

    def next_due(self) -> float:
        """Return when (monotonic) `due` will yield something."""
        return min((log.due_at() for log in self._logs.values()), default=float("inf"))

    def _leases(self, log: _Log) -> Iterator[tuple[int, Lease]]:
        for execution_id in log.execution_ids:
            execution = self._executions.find(execution_id)
            if execution is not None:
                yield execution_id, execution.lease(execution_id)
