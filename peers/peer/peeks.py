"""Reply to operators who ask what the handler of a running task does.

The main loop finds the task and asks its worker. A thread waits for the worker, reads /proc and
records the reply on a connection of its own, so that the main loop waits for nothing. The thread
and its connection exist only while there are requests, and a little longer.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict
from uuid import UUID

from peers import events
from peers.client.transaction import LazyConnection
from peers.database import functions
from peers.database.deadlines import BoundedConnection
from peers.database.rows import PeekRequest
from peers.database.storable import storable
from peers.peer import peek_report
from peers.pool import process_facts, stacks
from peers.pool.peek import PeekTarget
from peers.protocol.messages import NOT_STARTED, Peeked, Stack

_INTERPRETER_WITHIN: Final = 1.0
"""Seconds for the worker's interpreter to reply. After that C code seems to hold the GIL."""
_WORKER_WITHIN: Final = 2.0
"""Seconds for the worker to reply at all."""
_CPU_SAMPLE: Final = 0.1
"""Seconds, at least, over which the CPU time is measured."""
_IDLE_SECONDS: Final = 2.0
_WAITING_MAX: Final = 100
"""Requests. Later ones wait in the database, and come with another heartbeat."""
_STOP_WITHIN: Final = 1.0
_STOPPED: Final = ("T", "t")


class _Attempt(TypedDict):
    task_id: int
    kind: str | None
    attempt: int | None
    token: UUID


@dataclass(slots=True)
class _Pending:
    """A request, and what has become of it."""

    peer_id: UUID
    request: PeekRequest
    target: PeekTarget
    replied: threading.Event = field(default_factory=threading.Event)
    reply: Peeked | None = None

    @property
    def fields(self) -> _Attempt:
        """Return what the events say about the attempt."""
        return {
            "task_id": self.request.task_id, "kind": self.target.kind,
            "attempt": self.target.attempt, "token": self.request.token,
        }  # fmt: skip


class Peeks:
    """Takes requests from the main loop. `find` returns where a task is, and asks its worker."""

    def __init__(
        self,
        find: Callable[[PeekRequest], PeekTarget],
        connect: Callable[[], BoundedConnection],
    ) -> None:
        self._find = find
        self._connection = LazyConnection(connect)
        self._pending: dict[int, _Pending] = {}
        """Requests to which this peer has not replied, or whose reply may not be visible yet."""
        self._queue: queue.Queue[_Pending | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, peer_id: UUID, requests: Iterable[PeekRequest]) -> None:
        """Reply to these requests, all that a heartbeat has returned, in the background."""
        waiting = {request.id: request for request in requests}
        for old in self._pending.keys() - waiting.keys():
            del self._pending[old]
        for request in waiting.values():
            if request.id not in self._pending and len(self._pending) < _WAITING_MAX:
                self._start_one(_Pending(peer_id, request, self._find(request)))

    def worker_replied(self, message: Peeked) -> None:
        """Take the stacks that a worker sends."""
        pending = self._pending.get(message.peek_id)
        if pending is not None:
            pending.reply = message
            pending.replied.set()

    def stop(self) -> None:
        """End the thread. Requests without a reply stay without one."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join(_STOP_WITHIN)

    def _start_one(self, pending: _Pending) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="peeks", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system refuses another thread
                    pending.target.close()
                    return  # the next heartbeat returns the request again
                self._thread = thread
            self._pending[pending.request.id] = pending
            self._queue.put(pending)

    # ----------------------------------------------------------------------------------- thread

    def _run(self) -> None:
        while True:
            try:
                pending = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if not self._queue.empty():
                        continue
                    self._thread = None
                self._connection.close()
                return
            if pending is None:
                self._connection.close()
                return
            try:
                self._reply(pending)
            except Exception as error:  # noqa: BLE001  # logged; the next request may succeed
                events.peek_failed(**pending.fields, error=str(error).strip())
                self._connection.close()
                self._pending.pop(pending.request.id, None)  # the next heartbeat returns it again
            finally:
                pending.target.close()

    def _reply(self, pending: _Pending) -> None:
        facts, report = _describe(pending)
        connection = self._connection.get()
        encoding = connection.info.encoding
        document = json.dumps(_storable(facts, encoding))
        functions.reply_to_peek(
            connection, pending.peer_id, pending.request.id, document,
            peek_report.bounded(str(storable(report, encoding))),
        )  # fmt: skip
        events.task_peeked(**pending.fields, phase=pending.target.phase)


def _describe(pending: _Pending) -> tuple[dict[str, Any], str]:
    """Return the reply, as JSON and as a text."""
    target, task_id = pending.target, pending.request.task_id
    attempt = "" if target.kind is None else f" ({target.kind}, attempt {target.attempt})"
    lines = [f"task {task_id}{attempt}: {target.sentence}"]
    pid = target.worker_pid
    if pid is None:
        facts = peek_report.facts_of(target.phase, target.seconds, None, {}, [], None)
        return facts, peek_report.text_of([*lines, f"host {facts['host']}"], [])
    before = process_facts.cpu_time(pid)
    began = time.monotonic()
    shown, source, remark = _stacks(pending, pid, began)
    with contextlib.suppress(ValueError):  # negative: the worker took longer
        time.sleep(began + _CPU_SAMPLE - time.monotonic())
    found = process_facts.facts(pid, before)
    if remark == NOT_STARTED:
        target.phase, target.seconds = "waiting", None
    facts = peek_report.facts_of(target.phase, target.seconds, pid, found, shown, source)
    lines.append(f"host {facts['host']}, worker process {pid} of peer process {facts['peer_pid']}")
    lines += peek_report.worker_lines(pid, found)
    if remark:
        lines.append(remark)
    return facts, peek_report.text_of(lines, shown)


def _stacks(pending: _Pending, pid: int, began: float) -> tuple[list[Stack], str | None, str]:
    """Return the worker's stacks, where they come from, and a remark."""
    if process_facts.state(pid) in _STOPPED:
        return [], None, peek_report.why_silent(pid, 0.0)
    if pending.replied.wait(began + _INTERPRETER_WITHIN - time.monotonic()):
        assert pending.reply is not None
        remark = pending.reply.remark
        if not remark and not any(map(stacks.own_frames, pending.reply.stacks)):
            remark = "no handler has a frame: it starts or ends at this moment"
        return pending.reply.stacks, "interpreter", remark
    target = pending.target
    if target.dump is not None and target.pidfd >= 0:
        dump = target.dump.take(target.pidfd, began + _WORKER_WITHIN)
        if dump:
            remark = "C code holds the GIL: no other Python code of this process can run"
            return stacks.parse_dump(dump), "signal", remark
    if pending.reply is not None:
        return pending.reply.stacks, "interpreter", pending.reply.remark
    return [], None, peek_report.why_silent(pid, _WORKER_WITHIN)


def _storable(value: Any, encoding: str) -> Any:
    """Return the facts without characters that the database cannot store."""
    if isinstance(value, dict):
        return {key: _storable(each, encoding) for key, each in value.items()}
    if isinstance(value, list):
        return [_storable(each, encoding) for each in value]
    return storable(value, encoding)
