"""All workers of a peer: assign leases to them, take their messages, replace those that exit."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from peers import events
from peers.errors import ConfigError
from peers.pool.dispatch import hand_out
from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.first_worker import start_first_worker
from peers.pool.handle import WorkerHandle
from peers.pool.isolation import WorkerRole
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.orphans import OrphanKiller
from peers.pool.outcome_listener import OutcomeListener
from peers.pool.outcome_reporter import OutcomeReporter, log_exit
from peers.pool.peek import PeekTarget, ask_worker
from peers.pool.retirement import Limits, Retirement
from peers.pool.scaling import should_run_loop, unused_isolated_workers, workers_to_start
from peers.pool.stack_dump import StackDump
from peers.pool.starter import Starter, WorkerCallbacks
from peers.protocol.messages import (
    HandlerRequest,
    Hello,
    ImportFailed,
    KindDeclared,
    Outcomes,
    Peeked,
    Recalled,
    Stop,
    ToParent,
    ToWorker,
    Unfit,
)

_COLLECT: Final = 0.02
"""Seconds between two reads of what handlers print."""


class WorkerPool:
    """The workers: one for all async handlers, and one for each slot if there are sync handlers."""

    def __init__(
        self,
        app: str,
        log: tuple[str, str],
        environment: Environment,
        selector: selectors.BaseSelector,
        durations: DurationEstimate,
        listener: OutcomeListener,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        *,
        preload: bool = False,
    ) -> None:
        self.kinds: dict[str, KindDeclared] = {}
        self.declarations = b"{}"
        """What the app declares for the database, as JSON."""
        self.asynchronous: frozenset[str] = frozenset()
        self.on_peeked: Callable[[Peeked], None] = lambda _: None
        """Takes the stacks that workers send."""
        self._app = app
        self._environment = environment
        self._selector = selector
        self._durations = durations
        self._listener = listener
        self._orphans = OrphanKiller(selector)
        self._workers: list[WorkerHandle] = []
        self._retirement = Retirement(limits)
        self._reporter = OutcomeReporter(listener, durations, self._retirement, self._workers)
        self._isolated: dict[str, Counter[WorkerRole]] = {}
        """How many groups of each queue wait for a worker of their own."""
        self._stopping_all = False
        """The peer stops the workers itself: no task has failed because one exits."""
        self._starter = Starter(
            app, log, environment, selector, self._workers, self._orphans,
            WorkerCallbacks(self._read, self._reap, self._import_failed), preload=preload,
        )  # fmt: skip

    # --------------------------------------------------------------------- starting and stopping

    def start(self, import_timeout: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Start one worker and learn from it what the app can run; return early when `stopped`.

        Raises `ConfigError` when the app cannot be imported or declares no handler, and
        `PeersError` when the system refuses another process.
        """
        is_ready = start_first_worker(
            self._app, self._starter, self._workers, self._selector, import_timeout, stopped
        )
        if is_ready and not self.kinds:
            raise ConfigError(
                f"the app {self._app!r} declares no handler",
                'Decorate a function with @peers.task("some.kind"), or name the module that does.',
            )

    def stop(self) -> None:
        """Let idle workers exit by themselves, kill the others, and start no new ones."""
        self._stopping_all = True
        for worker in list(self._workers):
            worker.process.send(Stop())
            if worker.executions or not worker.ready:
                worker.process.kill()
            self._reap(worker)
        self._starter.close()
        self._orphans.close()

    def kill_all(self) -> None:
        """Kill every worker; no task fails. Safe from any thread; `reap_all` must follow."""
        self._stopping_all = True
        for worker in list(self._workers):
            worker.process.kill()

    def lease_ends(self, at: float) -> None:
        """Have the workers killed at this time (CLOCK_BOOTTIME) even if this process is stopped."""
        self._orphans.lease_ends(at)

    def reap_all(self) -> None:
        """Release the leases of the workers that `kill_all` has killed."""
        for worker in list(self._workers):
            worker.process.kill()
            self._reap(worker)
        self._stopping_all = False

    # ------------------------------------------------------------------------------- handing out

    def hand_out(self, local_queue: LocalQueue) -> None:
        """Assign the workers what they can take of this queue, smallest priority first."""
        if not local_queue.has_waiting and local_queue.queue not in self._isolated:
            return  # as at most turns
        for worker in hand_out(local_queue, self._workers, self._durations):
            self._select_for(worker)
        if local_queue.isolated:
            self._isolated[local_queue.queue] = Counter(g.role for g in local_queue.isolated)
        else:
            self._isolated.pop(local_queue.queue, None)

    def recall(self) -> None:
        """Ask for everything that was assigned and has not started."""
        for worker in self._workers:
            worker.recall()

    def follow_log(self, task_id: int) -> None:
        """Store the log of this task every second for a while, if it runs here."""
        for worker in self._workers:
            if worker.output is not None:
                worker.output.follow(task_id, time.monotonic())

    def cancel(self, lease: Lease, grace: float) -> bool:
        """Stop a running handler, by force after `grace` seconds; False: no worker has it."""
        return any(worker.cancel(lease, grace) for worker in self._workers)

    def peek(self, lease: Lease, peek_id: int, now: float) -> PeekTarget | None:
        """Ask the worker that has this lease for its stacks; None: no worker has it."""
        for worker in self._workers:
            target = ask_worker(worker, lease, peek_id, now)
            if target is not None:
                self._select_for(worker)
                return target
        return None

    def started(self, now: float) -> list[tuple[Lease, float]]:
        """Return the leases whose handlers run, and for how many seconds."""
        return [each for worker in self._workers for each in worker.started(now)]

    # ------------------------------------------------------------------------------ turn by turn

    def tick(self, now: float) -> None:
        """Kill workers that exceeded a time limit, recall waiting tasks, start workers."""
        self._orphans.ensure()
        for worker in self._workers:
            worker.watch(now)
            self._tick_output(worker, now)
        for worker, reason in self._retirement.due(self._workers, now):
            self._retirement.retire(worker, reason, self._workers)
        if not self._isolated:
            for worker in unused_isolated_workers(self._workers):
                worker.retire()  # the groups that it was started for are gone
        self._starter.start(self._missing(), now)

    def next_deadline(self) -> float:
        """Return when (monotonic) to `tick` again at the latest."""
        deadlines = [worker.next_deadline() for worker in self._workers]
        outputs = [worker.output for worker in self._workers if worker.output is not None]
        deadlines += [min(output.next_due(), output.read_at) for output in outputs]
        deadlines.append(self._starter.next_deadline())
        return min([*deadlines, self._starter.start_at if self._missing() else float("inf")])

    def _missing(self) -> list[WorkerRole]:
        ordinary = 1 if self.asynchronous else 0
        if len(self.asynchronous) < len(self.kinds):
            ordinary += self._environment.slots
        return workers_to_start(self._workers, ordinary, self._isolated, self._starter.requested)

    def _select_for(self, worker: WorkerHandle) -> None:
        """Select for writing only while there are unsent bytes."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.process.has_unsent else 0)
        key = self._selector.get_key(worker.process)
        if key.events != mask:
            self._selector.modify(worker.process, mask, key.data)

    # ---------------------------------------------------------------------- messages and exits

    def _read(self, worker: WorkerHandle) -> None:
        # its exit may have been handled earlier in the same turn, and its messages with it
        if worker.sent_garbage or worker not in self._workers:
            return
        worker.process.push()
        try:
            for message in worker.process.receive():
                self._handle(worker, message)
        except msgspec.MsgspecError as error:
            events.worker_message_invalid(worker_pid=worker.process.pid, error=str(error))
            worker.sent_garbage = True
            worker.process.kill()
        self._select_for(worker)

    def _select_output(self, worker: WorkerHandle) -> None:
        self._selector.register(
            worker.process.output, selectors.EVENT_READ, lambda: self._read_output(worker)
        )

    def _read_output(self, worker: WorkerHandle) -> None:
        """Read what was printed; then wait a moment, because handlers print line by line."""
        self._reporter.read_output(worker)
        output = worker.output
        if output is not None and (output.is_closed or not output.is_busy):
            with contextlib.suppress(KeyError):  # it was reaped earlier in the same turn
                self._selector.unregister(worker.process.output)
                output.read_at = float("inf") if output.is_closed else time.monotonic() + _COLLECT

    def _tick_output(self, worker: WorkerHandle, now: float) -> None:
        """Select for the output again, and store logs of running attempts."""
        if worker.output is not None:
            if worker.output.read_at <= now:
                worker.output.read_at = float("inf")
                self._select_output(worker)
            self._reporter.store_due_logs(worker, now)

    def _handle(self, worker: WorkerHandle, message: ToParent) -> None:
        match message:
            case Outcomes(outcomes):
                self._reporter.outcomes(worker, outcomes)
            case Recalled(executions):
                self._reporter.recalled(worker, executions)
            case Unfit(reason):
                self._retirement.retire(worker, reason, self._workers, recall=True)
            case HandlerRequest():
                self._reporter.requested(worker, message, self._send)
            case Peeked():
                self.on_peeked(message)
            case Hello(kinds, declared, stack_dump):
                self._begin(worker, kinds)
                self.declarations = declared
                worker.process.stack_dump = StackDump.of(worker.process.pid, stack_dump)
            case ImportFailed():
                self._import_failed(message)

    def _import_failed(self, message: ImportFailed) -> None:
        if not self.kinds:
            raise ConfigError(
                f"the app {self._app!r} cannot be imported: {message.error}",
                f"Correct the module, or --app (PEERS_APP).\n{message.traceback}",
            )
        self._starter.back_off(message.error)

    def _send(self, worker: WorkerHandle, message: ToWorker) -> None:
        worker.process.send(message)
        self._select_for(worker)

    def _begin(self, worker: WorkerHandle, kinds: list[KindDeclared]) -> None:
        self.kinds.clear()  # not a new dict: the local queues have this one
        self.kinds.update({kind.kind: kind for kind in kinds})
        self.asynchronous = frozenset(kind.kind for kind in kinds if kind.asynchronous)
        worker.begin(should_run_loop(worker, self._workers, has_async=bool(self.asynchronous)))
        self._retirement.begin(worker)
        policies = {kind.kind: kind.keep_log for kind in kinds if kind.keep_log}
        if policies:
            worker.capture(policies)
            self._select_output(worker)
        self._starter.succeeded()
        events.worker_started(worker_pid=worker.process.pid, asynchronous=worker.asynchronous)

    def _reap(self, worker: WorkerHandle) -> None:
        if worker not in self._workers:
            return
        self._read(worker)  # what it sent before it died counts
        self._reporter.read_output(worker, rest=True)
        self._starter.unregister(worker)
        self._workers.remove(worker)
        self._retirement.forget(worker)
        was_ready = worker.ready
        worker_exit = worker.reap(stopped=self._stopping_all)
        self._orphans.ended(worker.process.pid)
        if not self._stopping_all:
            log_exit(worker, worker_exit)
            if not was_ready:
                self._starter.died_importing = True
                self._starter.wait()
        self._reporter.exited(worker_exit)
