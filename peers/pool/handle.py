"""One worker and what it has been given: deadlines, recalls, and whose fault its death is."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Collection
from typing import Final

from peers.pool.crash import Death, Out, judge, suspect_all
from peers.pool.durations import FRAME_SECONDS, DurationEstimate
from peers.pool.local_queue import Lease, LocalQueue
from peers.pool.process import WorkerProcess, describe_exit
from peers.protocol.messages import Assigned, Begin, Cancel, Recall, Run, Stop
from peers.protocol.running_marker import Running

# A handler that runs longer than this keeps those behind it in its frame waiting: recall them.
_RECALL_AFTER: Final = 0.1
# How long an async handler that was told to stop may take to yield.
_ASYNC_GRACE: Final = 2.0
# How long a worker that has finished may take to end.
_END_WITHIN: Final = 5.0
_CANCELLED: Final = "cancelled"
_CRASH: Final = "crash"
_GARBLED: Final = (
    "the worker process was killed while it ran this task: something wrote into its connection to "
    "the peer, which must be left alone"
)
_OVERRAN_ITS_OWN: Final = "did not return within the time that it had set with kill_after()"
_HOGGED: Final = "was stopped: it kept its worker's event loop to itself, where another had to stop"

_tickets = itertools.count(1)


class WorkerHandle:
    """A worker process and the parent's books about it."""

    def __init__(self, process: WorkerProcess, slot: int, purpose: bool | None = None) -> None:
        self.process = process
        self.slot = slot
        self.purpose = purpose
        """None: whatever comes; else one part of suspects, async ones (True) or sync."""
        self.retiring = False
        """It finishes what it has begun, and is given nothing more."""
        self.dismissed = False
        self.most_tasks: int | None = None
        self.tasks_given = 0
        self.ready = False
        self.garbled = False
        self.asynchronous = False
        self.out: dict[int, Out] = {}
        self.local_queue: LocalQueue | None = None
        """The queue that a sync worker is busy with."""
        self.expected = 0.0
        """Seconds that what is out is expected to take."""
        self._calls: Counter[int] = Counter()
        """How many tasks of each call are out."""
        self._calls_given = 0
        self._end_by = float("inf")
        self._recalled = False
        self._condemned: tuple[int, str, str] | None = None
        self._kill_at: dict[int, tuple[float, str, str]] = {}

    def begin(self, asynchronous: bool) -> None:
        """It said hello: tell it what it shall be."""
        self.asynchronous = asynchronous
        self.ready = True
        self.process.send(Begin(asynchronous))

    def budget(self, local_queue: LocalQueue) -> float:
        """How many seconds of this local_queue's tasks it should be given now; 0: none."""
        if not self.ready or self._condemned is not None or self._recalled:
            return 0.0
        if self.retiring or self.purpose is not None:
            return 0.0
        if self.asynchronous:  # also beyond its allowance, until another can take its place
            return float("inf") if local_queue.free_slots > 0 else 0.0
        if self.allowance <= 0:
            return 0.0
        if self.local_queue is None:
            return FRAME_SECONDS if local_queue.free_slots > 0 else 0.0
        if self.local_queue is local_queue and self.expected < FRAME_SECONDS:
            return 2 * FRAME_SECONDS - self.expected
        if self.local_queue is local_queue and self.wants_one:
            return FRAME_SECONDS
        return 0.0

    @property
    def allowance(self) -> int:
        """Return how many more tasks it should be given."""
        return sys.maxsize if self.most_tasks is None else self.most_tasks - self.tasks_given

    @property
    def wants_one(self) -> bool:
        """Whether it should have its next task before it is done with the one that it has.

        So that it need not wait for an answer between two; not behind a slow one.
        """
        return len(self._calls) == 1 and self.expected < 2 * FRAME_SECONDS

    def give(
        self,
        local_queue: LocalQueue,
        leases: list[Lease],
        durations: DurationEstimate,
        *,
        together: bool = False,
    ) -> None:
        """Send it these leases; `together`: for one call of a batch handler."""
        tasks = []
        call = next(_tickets)
        is_first = self._calls_given == 0
        self._calls_given += 1 if together else len(leases)
        self.tasks_given += len(leases)
        if self.asynchronous:
            local_queue.running += 1 if together else len(leases)
        elif self.local_queue is None:
            self.local_queue = local_queue
            local_queue.running += 1
        local_queue.in_workers += len(leases)
        for lease in leases:
            ticket, task = next(_tickets), lease.task
            lease.ticket = ticket
            expected = durations.seconds(task.kind)
            self.out[ticket] = Out(
                lease, local_queue, expected, call if together else ticket, is_first
            )
            is_first = is_first and together
            self._calls[self.out[ticket].call] += 1
            self.expected += expected
            tasks.append(
                Assigned(
                    ticket,
                    task.task_id,
                    lease.token,
                    task.attempt,
                    task.kind,
                    task.args,
                    task.timeout,
                )
            )
            if self.asynchronous and task.timeout is not None:
                calls = 2 * len(leases) if together else 1  # when each has to stand alone
                due = time.monotonic() + task.timeout * calls + _ASYNC_GRACE
                self._kill_at[ticket] = (due, "timeout", _overran(task.timeout))
        self.process.send(Run(tasks, together))

    def take_back(self, ticket: int) -> Out | None:
        """It answered for this ticket (or gave it back); None when it was never out."""
        out = self.out.pop(ticket, None)
        if out is None:
            return None
        self._kill_at.pop(ticket, None)
        self.expected = self.expected - out.expected if self.out else 0.0
        out.local_queue.in_workers -= 1
        self._calls[out.call] -= 1
        over = not self._calls[out.call]
        if over:
            del self._calls[out.call]
        if self.asynchronous:
            out.local_queue.running -= over
        elif not self.out and self.local_queue is not None:
            self.local_queue.running -= 1
            self.local_queue = None
        return out

    def found_fresh(self, out: Out) -> bool:
        """Return whether nothing ran before or beside it that could have exhausted the worker."""
        return out.is_first and (not self.asynchronous or self._calls_given == 1)

    def retire(self, *, recall: bool = False) -> None:
        """Give it nothing more; `recall`: what it has not started shall not run here either."""
        self.retiring = True
        if recall:
            self.recall()

    def _dismiss(self, now: float) -> None:
        """Let it end by itself within a while: it has finished."""
        if not self.dismissed:
            self.dismissed = True
            self._end_by = now + _END_WITHIN
            self.process.send(Stop())
        elif now > self._end_by:
            self.process.kill()

    def recall(self) -> None:
        """Ask for what it has not started."""
        if self.out and not self._recalled and not self.asynchronous:
            self._recalled = True
            self.process.send(Recall())

    def recalled(self) -> None:
        """It gave back what it had not started."""
        self._recalled = False

    def cancel(self, lease: Lease, grace: float) -> bool:
        """Have this lease's handler stopped, by force after `grace` seconds; False: not here."""
        ticket = lease.ticket
        out = self.out.get(ticket)
        if out is None or out.lease is not lease:
            return False
        self.process.send(Cancel(ticket))
        self.recall()  # in case it has not been started
        stop = (time.monotonic() + grace, _CANCELLED, "stopped on request")
        self._kill_at[ticket] = min(stop, self._kill_at.get(ticket, stop))
        return True

    def started(self, now: float) -> list[tuple[Lease, float]]:
        """What its handlers are at, and for how many seconds."""
        if self.asynchronous:  # it starts what it gets at once
            return [(out.lease, now - out.lease.claimed_at) for out in self.out.values()]
        ticket, span, since = self.process.page.running()
        return [
            (self.out[number].lease, now - since)
            for number in range(ticket, ticket + span)
            if number in self.out
        ]

    def watch(self, now: float) -> None:
        """Kill it when a handler has overrun; recall what waits behind a slow one."""
        if self.retiring and not self.out and self.ready:
            self._dismiss(now)
        if not self.out or self._condemned is not None:
            return
        ticket, span, since = self.process.page.running()
        running = self.out.get(ticket)
        if running is not None:
            timeout = running.lease.task.timeout
            grace = _ASYNC_GRACE if self.asynchronous else 0.0
            if timeout is not None and now - since > timeout + grace:
                self._condemn(ticket, "timeout", _overran(timeout))
                return
            if now > self.process.page.due() + grace:
                self._condemn(ticket, "timeout", _OVERRAN_ITS_OWN)
                return
            if now - since > _RECALL_AFTER and len(self._calls) > 1:
                self.recall()
        for late, (due, error_type, message) in list(self._kill_at.items()):
            # a sync one that waits behind another is not worth the other's life
            if now > due and (self.asynchronous or ticket <= late < ticket + span):
                # an async handler that keeps the loop to itself does not let others be stopped
                hogs = self.asynchronous and running is not None
                if hogs and not ticket <= late < ticket + span:
                    self._condemn(ticket, _CRASH, _HOGGED)
                else:
                    self._condemn(late, error_type, message)
                return

    def next_deadline(self) -> float:
        """When to `watch` again at the latest."""
        if self._condemned is not None:
            return float("inf")
        if self.retiring and not self.out and self.ready:
            return self._end_by if self.dismissed else 0.0
        if not self.out:
            return float("inf")
        ticket, span, since = self.process.page.running()
        running = self.out.get(ticket)
        if self.asynchronous:
            due = min((due for due, _, _ in self._kill_at.values()), default=float("inf"))
            return due if running is None else min(due, self.process.page.due() + _ASYNC_GRACE)
        due = min(
            (due for late, (due, _, _) in self._kill_at.items() if ticket <= late < ticket + span),
            default=float("inf"),
        )
        if running is None:
            return due
        due = min(due, self.process.page.due())
        if len(self._calls) > 1 and not self._recalled:
            due = min(due, since + _RECALL_AFTER)
        if running.lease.task.timeout is not None:
            due = min(due, since + running.lease.task.timeout)
        return due

    def bury(self, blameless: bool) -> Death:
        """It is dead: free its resources and judge what that means for its tasks.

        `blameless`: it was killed for no fault of its tasks.
        """
        running, last = self.process.page.running(), self.process.page.last_started()
        signal_name, exit_code = describe_exit(self.process.reap())
        how = f"was killed by {signal_name}" if signal_name else f"exited with code {exit_code}"
        error_type, message = _CRASH, f"the worker process {how} while it ran this task"
        if self._condemned is not None:
            _, error_type, message = self._condemned
        elif self.garbled:
            message = _GARBLED
        if last is None:  # the note was destroyed; a sync worker runs its tasks in their order
            last = self._first_call()
        guilty = range(0) if blameless else self._guilty(running, last)
        outs = {ticket: out for ticket in list(self.out) if (out := self.take_back(ticket))}
        death = Death(signal_name, exit_code, message if self._condemned is not None else None)
        if guilty is None and len(outs) > 1:
            suspect_all(death, outs)
            return death
        unstarted_from = float("inf") if self.asynchronous or blameless else last.stop
        judge(
            death, outs, list(outs) if guilty is None else guilty, unstarted_from,
            error_type, message,
        )  # fmt: skip
        return death

    def _first_call(self) -> range:
        """The tickets of the first call that it has not answered; empty: it has answered all."""
        first = min(self.out, default=0)
        return range(first, first + self._calls[self.out[first].call]) if self.out else range(0)

    def _guilty(self, running: Running, last: range) -> Collection[int] | None:
        """The tickets of the call that the worker died of; None: it may be any that is out."""
        called = range(running.ticket, running.ticket + running.span)
        if not self.asynchronous:
            called = last  # also when it was over: its outcome got lost with the worker
        if self._condemned is not None:
            ticket, error_type, _ = self._condemned
            if error_type == _CANCELLED:
                return (ticket,)
            if ticket in called:
                return called
            call = self.out[ticket].call if ticket in self.out else ticket
            return [number for number, out in self.out.items() if out.call == call]
        if self.asynchronous and not any(ticket in self.out for ticket in called):
            # A loop that died while no handler had it (in a thread of one, or for its memory)
            # leaves only suspects.
            return None
        return called

    def _condemn(self, ticket: int, error_type: str, message: str) -> None:
        # what it has answered in the meantime counts: its death is judged after its last words
        self._condemned = (ticket, error_type, message)
        self.process.kill()


def _overran(timeout: float) -> str:
    return f"ran longer than its timeout of {timeout:g} s"
