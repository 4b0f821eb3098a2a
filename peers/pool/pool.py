"""All workers of a peer: hand out leases, take in what becomes of them, replace who dies."""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from peers import events
from peers.errors import ConfigError, PeerLost, PeersError
from peers.pool.crash import Death, Out, calls_of
from peers.pool.dispatch import hand_out
from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.handle import WorkerHandle
from peers.pool.isolation import Suspects
from peers.pool.local_queue import Lease, LocalQueue
from peers.pool.missing import Purpose, to_start, unused_isolated
from peers.pool.orphans import OrphanKiller
from peers.pool.outcome_listener import OutcomeListener
from peers.pool.retirement import Limits, Retirement, may_retire
from peers.pool.starter import Hooks, Starter
from peers.protocol.messages import (
    Broken,
    Call,
    Completed,
    Failed,
    Hello,
    KindDeclared,
    Outcomes,
    Reply,
    Requeued,
    Stop,
    ToParent,
    Unfit,
)


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
        self.asynchronous: frozenset[str] = frozenset()
        self._app = app
        self._environment = environment
        self._selector = selector
        self._durations = durations
        self._listener = listener
        self._orphans = OrphanKiller(selector)
        self._workers: list[WorkerHandle] = []
        self._retirement = Retirement(limits)
        self._suspects: dict[str, Counter[bool]] = {}
        """How many parts wait in each queue for a worker of their own."""
        self._blameless = False
        self._starter = Starter(
            app, log, environment, selector, self._workers, self._orphans,
            Hooks(self._exchange, self._bury, self._on_broken), preload=preload,
        )  # fmt: skip

    # --------------------------------------------------------------------- starting and stopping

    def start(self, patience: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Start one worker and learn from it what the app can run; returns early when `stopped`.

        Raises `ConfigError` when the app cannot be imported or declares no handler, and
        `PeersError` when the machine has no room for a process.
        """
        deadline = time.monotonic() + patience
        while not any(worker.ready for worker in self._workers):
            if stopped():
                return
            if not self._workers and not self._starter.asked:
                self._start_first()
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"importing the app {self._app!r} took longer than {patience:g} s"
                )
            for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
                key.data()
        if not self.kinds:
            raise ConfigError(
                f"the app {self._app!r} declares no handler",
                'Decorate a function with @peers.task("some.kind"), or name the module that does.',
            )

    def _start_first(self) -> None:
        """Start a worker; a second time when it has turned out that it cannot be forked."""
        if self._starter.died_importing:
            raise ConfigError(f"the worker that imported the app {self._app!r} died")
        try:
            self._starter.spawn()
        except OSError as error:
            raise PeersError(
                f"a worker cannot start: {error}",
                "Free memory, processes or descriptors of this machine or account.",
            ) from error

    def stop(self) -> None:
        """Let idle workers end by themselves, kill the others; nobody is replaced."""
        self._blameless = True
        for worker in list(self._workers):
            worker.process.send(Stop())
            if worker.out or not worker.ready:
                worker.process.kill()
            self._bury(worker)
        self._starter.close()
        self._orphans.close()

    def kill_all(self) -> None:
        """Kill every worker, blaming no task. Safe from any thread; `bury_all` must follow."""
        self._blameless = True
        for worker in list(self._workers):
            worker.process.kill()

    def bury_all(self) -> None:
        """After `kill_all`: take the leases back. Who dies later has itself to blame."""
        for worker in list(self._workers):
            worker.process.kill()
            self._bury(worker)
        self._blameless = False

    # ------------------------------------------------------------------------------- handing out

    def hand_out(self, local_queue: LocalQueue) -> None:
        """Give the workers what they can take of this queue's backlog, smallest priority first."""
        for worker in hand_out(local_queue, self._workers, self._durations):
            self._select_for(worker)
        if local_queue.suspects:
            self._suspects[local_queue.queue] = Counter(
                part.asynchronous for part in local_queue.suspects
            )
        else:
            self._suspects.pop(local_queue.queue, None)

    def recall(self) -> None:
        """Ask for everything that was handed out and not started."""
        for worker in self._workers:
            worker.recall()

    def cancel(self, lease: Lease, grace: float) -> bool:
        """Have a running handler stopped, by force after `grace` seconds; False: it is over."""
        return any(worker.cancel(lease, grace) for worker in self._workers)

    def started(self, now: float) -> list[tuple[Lease, float]]:
        """What handlers are at, and for how many seconds each."""
        return [each for worker in self._workers for each in worker.started(now)]

    # ---------------------------------------------------------------------------- from turn to turn

    def tick(self, now: float) -> None:
        """Kill what overran, recall what waits behind it, start workers that are missing."""
        self._orphans.ensure()
        for worker in self._workers:
            worker.watch(now)
        for worker, reason in self._retirement.look(self._workers, now):
            self._retire(worker, reason)
        if not self._suspects:
            for worker in unused_isolated(self._workers):
                worker.retire()  # those that it was for are gone
        self._starter.start(self._missing(), now)

    def next_deadline(self) -> float:
        """When `tick` is due again at the latest (monotonic)."""
        deadlines = [worker.next_deadline() for worker in self._workers]
        deadlines.append(self._starter.next_deadline())
        return min([*deadlines, self._starter.start_at if self._missing() else float("inf")])

    def _missing(self) -> list[Purpose]:
        ordinary = 1 if self.asynchronous else 0
        if len(self.asynchronous) < len(self.kinds):
            ordinary += self._environment.slots
        return to_start(self._workers, ordinary, self._suspects, self._starter.asked)

    def _retire(self, worker: WorkerHandle, reason: str, *, recall: bool = False) -> None:
        """Let it finish what it has begun, and have another take its place."""
        if not worker.retiring and may_retire(worker, self._workers):
            events.worker_retired(
                worker_pid=worker.process.pid, reason=reason, tasks=worker.tasks_given
            )
            worker.retire(recall=recall)

    def _select_for(self, worker: WorkerHandle) -> None:
        """Wait for the socket to take more, only while there is more."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.process.has_unsent else 0)
        key = self._selector.get_key(worker.process)
        if key.events != mask:
            self._selector.modify(worker.process, mask, key.data)

    # --------------------------------------------------------------------- what workers have to say

    def _exchange(self, worker: WorkerHandle) -> None:
        # its death may have come before its last words in the same turn: then both were heard
        if worker.garbled or worker not in self._workers:
            return
        worker.process.push()
        try:
            for message in worker.process.receive():
                self._take(worker, message)
        except msgspec.MsgspecError as error:
            events.worker_message_invalid(worker_pid=worker.process.pid, error=str(error))
            worker.garbled = True
            worker.process.kill()
        self._select_for(worker)

    def _take(self, worker: WorkerHandle, message: ToParent) -> None:
        match message:
            case Outcomes(outcomes):
                spoilt = [self._settle(worker, outcome) for outcome in outcomes]
                self._run_isolated(worker, [out for out in spoilt if out is not None])
            case Requeued(tickets):
                outs = [worker.take_back(ticket) for ticket in tickets]
                worker.recalled()
                self._listener.unstarted([out.lease for out in outs if out is not None])
            case Unfit(reason):
                self._retire(worker, reason, recall=True)
            case Call():
                self._answer(worker, message)
            case Hello(kinds):
                self._welcome(worker, kinds)
            case Broken():
                self._on_broken(message)

    def _on_broken(self, message: Broken) -> None:
        if not self.kinds:
            raise ConfigError(
                f"the app {self._app!r} cannot be imported: {message.error}",
                f"--app (PEERS_APP) names a module that is found from here.\n{message.traceback}",
            )
        self._starter.back_off(message.error)

    def _settle(self, worker: WorkerHandle, outcome: Completed | Failed) -> Out | None:
        """Pass an outcome on; or return what failed because others had exhausted its worker."""
        out = worker.take_back(outcome.ticket)
        if out is None:
            return None
        task = out.lease.task
        self._durations.note(task.kind, outcome.seconds)
        why = self._retirement.reason(worker, task.kind, outcome, time.monotonic())
        if why is not None:
            self._retire(worker, why, recall=True)
        if isinstance(outcome, Completed):
            events.task_completed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt, seconds=outcome.seconds
            )
            self._listener.completed(out.lease, outcome.result)
            return None
        if outcome.exhausted and not worker.found_fresh(out):
            return out
        failure = msgspec.structs.asdict(outcome)
        del failure["ticket"], failure["seconds"], failure["exhausted"]
        self._listener.failed(out.lease, failure)
        return None

    def _run_isolated(self, worker: WorkerHandle, spoilt: list[Out]) -> None:
        """Run these again where nobody else is; in halves what has been apart already."""
        for calls in calls_of(spoilt).values():
            part = Suspects(calls, worker.asynchronous)
            divided = worker.purpose is not None and len(calls) > 1
            self._listener.suspected(part.halves() if divided else [part])

    def _answer(self, worker: WorkerHandle, call: Call) -> None:
        def reply(answer: bytes | PeersError) -> None:
            if not call.call or worker not in self._workers:
                return
            if isinstance(answer, bytes):
                message = Reply(call.call, answer)
            else:
                error = (type(answer).__name__, answer.message, answer.hint)
                message = Reply(call.call, b"null", error)
            worker.process.send(message)
            self._select_for(worker)

        out = worker.out.get(call.ticket)
        if out is None:  # a thread that its handler left behind: it must not wait for ever
            reply(PeerLost("the task that asks for this is not running any more"))
        else:
            self._listener.asked(out.lease, call.verb, call.body, reply)

    def _welcome(self, worker: WorkerHandle, kinds: list[KindDeclared]) -> None:
        self.kinds.clear()  # local_queues look into it
        self.kinds.update({kind.kind: kind for kind in kinds})
        self.asynchronous = frozenset(kind.kind for kind in kinds if kind.asynchronous)
        asynchronous = worker.purpose
        if asynchronous is None:
            have_loop = any(
                other.asynchronous and other.purpose is None and not other.retiring
                for other in self._workers
            )
            asynchronous = bool(self.asynchronous) and not have_loop
        worker.begin(asynchronous=asynchronous)
        self._retirement.begin(worker)
        self._starter.worked()
        events.worker_started(worker_pid=worker.process.pid, asynchronous=worker.asynchronous)

    def _bury(self, worker: WorkerHandle) -> None:
        if worker not in self._workers:
            return
        self._exchange(worker)  # its last words count
        self._starter.forget(worker)
        self._workers.remove(worker)
        self._retirement.bury(worker)
        was_ready = worker.ready
        death = worker.bury(self._blameless)
        self._orphans.ended(worker.process.pid)
        if not self._blameless:
            _tell_death(worker, death)
            if not was_ready:
                self._starter.died_importing = True
                self._starter.wait()
        for lease, failure in death.failed:
            self._listener.failed(lease, failure)
        self._listener.divided(death.divided)
        self._listener.suspected(death.suspects)
        self._listener.unstarted(death.unstarted)
        self._listener.aborted(death.aborted)


def _tell_death(worker: WorkerHandle, death: Death) -> None:
    """An end that the peer wanted is no error."""
    pid = worker.process.pid
    task_ids = [lease.task.task_id for lease, _ in death.failed]
    if death.reason is not None:
        events.worker_killed(worker_pid=pid, reason=death.reason, task_ids=task_ids)
    elif not worker.dismissed:
        events.worker_died(
            worker_pid=pid, exit_signal=death.exit_signal, exit_code=death.exit_code,
            task_ids=task_ids,
        )  # fmt: skip
