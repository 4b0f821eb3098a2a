"""Run a batch: call its handler with all tasks, and bisect a call that raises.

So a task that fails does not fail the other tasks of its batch. Isolating one failing task takes
about 2·log₂(n) further calls. All calls have the same attempt and token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peers.bisect import halves
from peers.context import CurrentTask
from peers.errors import Reject, ResultInvalid, Retry
from peers.protocol.messages import Completed, Failed
from peers.worker.args import load_args
from peers.worker.assigned import AssignedTask
from peers.worker.outcome import completed, failed, stopped

Outcome = Completed | Failed

_TEXTS = (str, bytes, bytearray, memoryview)


@dataclass(slots=True)
class Member:
    """A task of a batch, its args as the handler takes them, and its `current_task()`."""

    task: AssignedTask
    current: CurrentTask
    first: Any
    """The args for the first call; None after that."""

    def args(self) -> Any:
        """Return the args; new ones for each call, as the handler may have changed them."""
        args, self.first = self.first, None
        return load_args(self.task) if args is None else args


class Part:
    """The tasks of one call."""

    def __init__(self, members: list[Member]) -> None:
        first, last = members[0].task, members[-1].task
        self.members = members
        self.kind = first.kind
        self.timeout = first.timeout
        self.execution_id = first.execution_id
        self.span = last.execution_id - first.execution_id + 1
        self.started_ns = time.monotonic_ns()
        for member in members:  # each call has the whole timeout
            if member.task.timeout is not None:
                member.current.deadline = self.started_ns / 1e9 + member.task.timeout

    @property
    def args(self) -> list[Any]:
        """Return the list that the handler is called with."""
        return [member.args() for member in self.members]

    @property
    def tasks(self) -> list[CurrentTask]:
        """Return what `current_batch()` returns."""
        return [member.current for member in self.members]

    def seconds(self) -> float:
        """Return each task's share of the time since the call started."""
        return (time.monotonic_ns() - self.started_ns) / 1e9 / len(self.members)


class Batch:
    """The parts that wait for their call, and the outcomes that wait to be sent."""

    def __init__(
        self, tasks: list[AssignedTask], make_current: Callable[[AssignedTask], CurrentTask]
    ) -> None:
        self._outcomes: list[Outcome] = []
        members = [m for task in tasks if (m := self._member_of(task, make_current)) is not None]
        self._waiting = [members] if members else []

    def _member_of(
        self, task: AssignedTask, make_current: Callable[[AssignedTask], CurrentTask]
    ) -> Member | None:
        try:
            args = load_args(task)
        except BaseException as error:  # noqa: BLE001  # whatever is wrong with its args, it is this task's failure
            self._outcomes.append(failed(task, 0.0, error))
            return None
        return Member(task, make_current(task), args)

    @property
    def tasks(self) -> list[CurrentTask]:
        """Return the tasks that wait for their call."""
        return [member.current for part in self._waiting for member in part]

    def remove(self, execution_id: int) -> Outcome | None:
        """Remove a cancelled task that waits; return its outcome, or None if it does not wait."""
        for part in self._waiting:
            for member in part:
                if member.task.execution_id == execution_id:
                    part.remove(member)
                    return stopped(member.task, 0.0)
        return None

    def next(self) -> Part | None:
        """Return the tasks of the next call, without cancelled ones; None when all are done."""
        while self._waiting:
            part = self._waiting.pop()
            self._outcomes += [stopped(m.task, 0.0) for m in part if m.current.cancelled]
            left = [member for member in part if not member.current.cancelled]
            if left:
                return Part(left)
        return None

    def returned(self, part: Part, results: Any) -> None:
        """Add outcomes for what the handler returned. Raises nothing, whatever that is."""
        seconds = part.seconds()
        try:
            found = _results_of(part, results)
        except BaseException as error:  # noqa: BLE001  # whatever a handler returns, and however it behaves
            # not bisected: a task that is called alone may get a "result" that was for another one
            self._fail(part, error)
            return
        self._outcomes += [
            _outcome(member.task, seconds, result)
            for member, result in zip(part.members, found, strict=True)
        ]

    def raised(
        self, part: Part, error: BaseException, describe: Callable[..., Failed] = failed
    ) -> None:
        """Bisect a part whose call raised; fail its tasks if it is one, or the error is final."""
        if len(part.members) == 1 or issubclass(type(error), Retry | Reject):
            self._fail(part, error, describe)
            return
        self._waiting += reversed(halves(part.members))  # the first half is next

    def stopped(self, part: Part, error: BaseException, describe: Callable[..., Failed]) -> None:
        """Fail the cancelled tasks for which a call was stopped; call again with the others."""
        seconds = part.seconds()
        self._outcomes += [
            describe(member.task, seconds, error)
            for member in part.members
            if member.current.cancelled
        ]
        others = [member for member in part.members if not member.current.cancelled]
        if others:
            self._waiting.append(others)

    def _fail(
        self, part: Part, error: BaseException, describe: Callable[..., Failed] = failed
    ) -> None:
        seconds = part.seconds()
        self._outcomes += [describe(member.task, seconds, error) for member in part.members]

    def take_outcomes(self) -> list[Outcome]:
        """Return the outcomes since the last call of this method."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes


_NO_LIST = "{} was called with {} tasks and must return a list with a result for each, not {}"
_MISCOUNTED = "{} was called with {} tasks and returned {} results; it must be one for each"


def _results_of(part: Part, results: Any) -> list[Any]:
    """Return a result for each task of the part. Raises `ResultInvalid` if that is impossible."""
    size = len(part.members)
    found = _listed(results)
    if found is None:
        raise ResultInvalid(_NO_LIST.format(part.kind, size, type(results).__name__))
    if len(found) != size:
        raise ResultInvalid(_MISCOUNTED.format(part.kind, size, len(found)))
    return found


def _listed(results: Any) -> list[Any] | None:
    """Return the results as a list; None if they have no order, or are not a list of results."""
    if getattr(results, "ndim", 0) == 1 and hasattr(results, "tolist"):  # numpy, pandas …
        results = results.tolist()
    if not isinstance(results, Sequence) or isinstance(results, _TEXTS):
        return None
    return list(results)


def _outcome(task: AssignedTask, seconds: float, result: Any) -> Outcome:
    """Return a task's outcome; a batch handler may return an exception in place of a result."""
    if issubclass(type(result), BaseException):  # `isinstance` would believe a __class__ that lies
        return failed(task, seconds, result)
    try:
        return completed(task, seconds, result)
    except BaseException as error:  # noqa: BLE001  # also what methods of the result raise
        return failed(task, seconds, error)
