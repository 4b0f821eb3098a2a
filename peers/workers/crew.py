"""All workers of a peer: hand out leases, take in what becomes of them, replace who dies."""

from __future__ import annotations

import itertools
import os
import selectors
import time
from typing import Final

import msgspec

from peers import events
from peers.db import Backoff
from peers.errors import ConfigError, PeerLost, PeersError
from peers.frames import (
    Broken,
    Call,
    Completed,
    Failed,
    Hello,
    KindDeclared,
    Outcomes,
    Reply,
    Returned,
    Stop,
    ToParent,
)
from peers.lane import Lane, Lease
from peers.pace import Pace
from peers.workers.dispatch import hand_out
from peers.workers.environment import Environment
from peers.workers.orphans import OrphanKiller
from peers.workers.sink import Sink
from peers.workers.worker import Worker

_STARTING_AT_ONCE: Final = os.cpu_count() or 1


class Crew:
    """The workers: one for all async handlers, and one for each slot if there are sync handlers."""

    def __init__(
        self,
        app: str,
        log: tuple[str, str],
        environment: Environment,
        selector: selectors.BaseSelector,
        pace: Pace,
        sink: Sink,
    ) -> None:
        self.kinds: dict[str, KindDeclared] = {}
        self.asynchronous: frozenset[str] = frozenset()
        self._app = app
        self._log = log
        self._environment = environment
        self._selector = selector
        self._pace = pace
        self._sink = sink
        self._orphans = OrphanKiller(selector)
        self._workers: list[Worker] = []
        self._backoff = Backoff(base=0.2, cap=30.0)
        self._start_at = 0.0
        self._blameless = False

    # --------------------------------------------------------------------- starting and stopping

    def start(self, patience: float) -> None:
        """Start one worker and learn from it what the app can run.

        Raises `ConfigError` when the app cannot be imported or declares no handler.
        """
        worker = self._spawn()
        deadline = time.monotonic() + patience
        while not worker.ready:
            if worker not in self._workers:
                raise ConfigError(f"the worker that imported the app {self._app!r} died")
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"importing the app {self._app!r} took longer than {patience:g} s"
                )
            for key, _ in self._selector.select(deadline - time.monotonic()):
                key.data()
        if not self.kinds:
            raise ConfigError(
                f"the app {self._app!r} declares no handler",
                'Decorate a function with @peers.task("some.kind"), or name the module that does.',
            )

    def stop(self) -> None:
        """Let idle workers end by themselves, kill the others; nobody is replaced."""
        self._blameless = True
        for worker in list(self._workers):
            worker.process.send(Stop())
            if worker.out or not worker.ready:
                worker.process.kill()
            self._bury(worker)
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

    def hand_out(self, lane: Lane) -> None:
        """Give the workers what they can take of this lane's backlog, smallest priority first."""
        for worker in hand_out(lane, self._workers, self._pace):
            self._select_for(worker)

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
        if now >= self._start_at:
            for _ in range(self._to_start()):
                self._spawn()

    def next_deadline(self) -> float:
        """When `tick` is due again at the latest (monotonic)."""
        deadlines = [worker.next_deadline() for worker in self._workers]
        return min([*deadlines, self._start_at if self._to_start() > 0 else float("inf")])

    def _to_start(self) -> int:
        """How many workers to start now; those that are starting already report by themselves."""
        wanted = 1 if self.asynchronous else 0
        if len(self.asynchronous) < len(self.kinds):
            wanted += self._environment.slots
        starting = sum(not worker.ready for worker in self._workers)
        return min(wanted - len(self._workers), _STARTING_AT_ONCE - starting)

    def _spawn(self) -> Worker:
        taken = {worker.slot for worker in self._workers}
        slot = next(number for number in itertools.count() if number not in taken)
        self._orphans.ensure()
        worker = Worker(self._app, self._log, slot, self._environment.of_slot(slot))
        self._orphans.began(worker.process.pid)
        self._workers.append(worker)
        read = selectors.EVENT_READ
        self._selector.register(worker.process, read, lambda: self._exchange(worker))
        self._selector.register(worker.process.pidfd, read, lambda: self._bury(worker))
        return worker

    def _select_for(self, worker: Worker) -> None:
        """Wait for the socket to take more, only while there is more."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.process.has_unsent else 0)
        key = self._selector.get_key(worker.process)
        if key.events != mask:
            self._selector.modify(worker.process, mask, key.data)

    # --------------------------------------------------------------------- what workers have to say

    def _exchange(self, worker: Worker) -> None:
        # its death may have come before its last words in the same turn: then both were heard
        if worker.garbled or worker not in self._workers:
            return
        worker.process.push()
        try:
            for message in worker.process.receive():
                self._take(worker, message)
        except msgspec.MsgspecError as error:
            events.worker_garbled(worker_pid=worker.process.pid, error=str(error))
            worker.garbled = True
            worker.process.kill()
        self._select_for(worker)

    def _take(self, worker: Worker, message: ToParent) -> None:
        match message:
            case Outcomes(outcomes):
                for outcome in outcomes:
                    self._settle(worker, outcome)
            case Returned(tickets):
                outs = [worker.take_back(ticket) for ticket in tickets]
                worker.recalled()
                self._sink.unstarted([out.lease for out in outs if out is not None])
            case Call():
                self._answer(worker, message)
            case Hello(kinds):
                self._welcome(worker, kinds)
            case Broken(error, traceback):
                if not self.kinds:
                    raise ConfigError(
                        f"the app {self._app!r} cannot be imported: {error}",
                        f"--app (PEERS_APP) names a module that is found from here.\n{traceback}",
                    )
                self._start_at = time.monotonic() + self._backoff.next()
                events.worker_broken(error=error, retry_in=self._start_at - time.monotonic())

    def _settle(self, worker: Worker, outcome: Completed | Failed) -> None:
        out = worker.take_back(outcome.ticket)
        if out is None:
            return
        self._pace.note(out.lease.task.kind, outcome.seconds)
        if isinstance(outcome, Completed):
            task = out.lease.task
            events.task_completed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt, seconds=outcome.seconds
            )
            self._sink.completed(out.lease, outcome.result)
        else:
            failure = msgspec.structs.asdict(outcome)
            del failure["ticket"], failure["seconds"]
            self._sink.failed(out.lease, failure)

    def _answer(self, worker: Worker, call: Call) -> None:
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
            self._sink.asked(out.lease, call.verb, call.body, reply)

    def _welcome(self, worker: Worker, kinds: list[KindDeclared]) -> None:
        self.kinds.clear()  # lanes look into it
        self.kinds.update({kind.kind: kind for kind in kinds})
        self.asynchronous = frozenset(kind.kind for kind in kinds if kind.asynchronous)
        have_async = any(other.asynchronous for other in self._workers)
        worker.begin(asynchronous=bool(self.asynchronous) and not have_async)
        self._backoff.reset()
        events.worker_started(worker_pid=worker.process.pid, asynchronous=worker.asynchronous)

    def _bury(self, worker: Worker) -> None:
        if worker not in self._workers:
            return
        self._exchange(worker)  # its last words count
        self._selector.unregister(worker.process)
        self._selector.unregister(worker.process.pidfd)
        self._workers.remove(worker)
        was_ready, pid = worker.ready, worker.process.pid
        death = worker.bury(self._blameless)
        self._orphans.ended(pid)
        if not self._blameless:
            events.worker_died(
                worker_pid=pid, exit_signal=death.exit_signal, exit_code=death.exit_code,
                task_ids=[lease.task.task_id for lease, _ in death.failed],
            )  # fmt: skip
            if not was_ready:
                self._start_at = time.monotonic() + self._backoff.next()
        for lease, failure in death.failed:
            self._sink.failed(lease, failure)
        self._sink.divided(death.divided)
        self._sink.unstarted(death.unstarted)
        self._sink.aborted(death.aborted)
