"""The calls that a batch takes: all of its tasks at once, and halves of what fails.

So one task that cannot be done does not take the others along: the culprits are cornered, each in
about 2·log₂(n) calls more, all under the same attempt and token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peers.context import CurrentTask
from peers.errors import Reject, ResultInvalid, Retry
from peers.protocol.messages import Assigned, Completed, Failed
from peers.worker.args import load_args
from peers.worker.outcome import completed, failed, stopped

Outcome = Completed | Failed

_TEXTS = (str, bytes, bytearray, memoryview)


@dataclass(slots=True)
class Member:
    """A task of a batch, its args as the handler wants them, and what the handler may know."""

    task: Assigned
    current: CurrentTask
    first: Any
    """The args for the first call; None after that."""

    def args(self) -> Any:
        """Made anew for each further call: the handler may have changed what it was given."""
        args, self.first = self.first, None
        return load_args(self.task) if args is None else args


class Part:
    """Tasks for one call."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.ticket = members[0].task.ticket
        self.span = members[-1].task.ticket - self.ticket + 1
        self.started_ns = time.monotonic_ns()
        for member in members:  # the timeout is that of one call
            if member.task.timeout is not None:
                member.current.deadline = self.started_ns / 1e9 + member.task.timeout

    @property
    def args(self) -> list[Any]:
        """What the handler is called with."""
        return [member.args() for member in self.members]

    @property
    def tasks(self) -> list[CurrentTask]:
        """What `current_batch()` answers."""
        return [member.current for member in self.members]

    def seconds(self) -> float:
        """Since the call started, each task's share."""
        return (time.monotonic_ns() - self.started_ns) / 1e9 / len(self.members)


class Batch:
    """Parts that wait for their call, and outcomes that wait to be told."""

    def __init__(self, tasks: list[Assigned], enter: Callable[[Assigned], CurrentTask]) -> None:
        self._outcomes: list[Outcome] = []
        members = [m for task in tasks if (m := self._admit(task, enter)) is not None]
        self._waiting = [members] if members else []

    def _admit(self, task: Assigned, enter: Callable[[Assigned], CurrentTask]) -> Member | None:
        try:
            args = load_args(task)
        except BaseException as error:  # noqa: BLE001  # whatever is wrong with its args, it is this task's failure
            self._outcomes.append(failed(task, 0.0, error))
            return None
        return Member(task, enter(task), args)

    @property
    def tasks(self) -> list[CurrentTask]:
        """What waits for its call."""
        return [member.current for part in self._waiting for member in part]

    def drop(self, ticket: int) -> Outcome | None:
        """A task that waits for its call is cancelled: what to tell of it; None: no such."""
        for part in self._waiting:
            for member in part:
                if member.task.ticket == ticket:
                    part.remove(member)
                    return stopped(member.task, 0.0)
        return None

    def next(self) -> Part | None:
        """What to call next, without what somebody has cancelled; None: the batch is over."""
        while self._waiting:
            part = self._waiting.pop()
            self._outcomes += [stopped(m.task, 0.0) for m in part if m.current.cancelled]
            left = [member for member in part if not member.current.cancelled]
            if left:
                return Part(left)
        return None

    def returned(self, part: Part, results: Any) -> None:
        """The call returned; raises nothing, whatever that is."""
        seconds = part.seconds()
        try:
            found = _results_of(part, results)
        except BaseException as error:  # noqa: BLE001  # whatever a handler returns, and however it behaves
            # not divided: alone, a task may well get a "result" that was meant for another
            self._fail(part, error)
            return
        self._outcomes += [
            _outcome(member.task, seconds, result)
            for member, result in zip(part.members, found, strict=True)
        ]

    def raised(
        self, part: Part, error: BaseException, describe: Callable[..., Failed] = failed
    ) -> None:
        """The call raised: divide what it was called with, or fail each task if that is final."""
        if len(part.members) == 1 or issubclass(type(error), Retry | Reject):
            self._fail(part, error, describe)
            return
        middle = (len(part.members) + 1) // 2
        self._waiting += [part.members[middle:], part.members[:middle]]

    def stopped(self, part: Part, error: BaseException, describe: Callable[..., Failed]) -> None:
        """The call was stopped for the sake of those that somebody cancelled; the rest goes on."""
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
        """What has become of tasks since the last time."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes


_NO_LIST = "{} was called with {} tasks and must return a list with a result for each, not {}"
_MISCOUNTED = "{} was called with {} tasks and returned {} results; it must be one for each"


def _results_of(part: Part, results: Any) -> list[Any]:
    """A result for each task of the part. Raises `ResultInvalid` if there is no such list."""
    kind, size = part.members[0].task.kind, len(part.members)
    found = _listed(results)
    if found is None:
        raise ResultInvalid(_NO_LIST.format(kind, size, type(results).__name__))
    if len(found) != size:
        raise ResultInvalid(_MISCOUNTED.format(kind, size, len(found)))
    return found


def _listed(results: Any) -> list[Any] | None:
    """The results in a list; None for what has no order, or is no list of results."""
    if getattr(results, "ndim", 0) == 1 and hasattr(results, "tolist"):  # of numpy, pandas …
        results = results.tolist()
    if not isinstance(results, Sequence) or isinstance(results, _TEXTS):
        return None
    return list(results)


def _outcome(task: Assigned, seconds: float, result: Any) -> Outcome:
    """A batch handler may return an exception in the place of a result."""
    if issubclass(type(result), BaseException):  # not by what it says that it is
        return failed(task, seconds, result)
    try:
        return completed(task, seconds, result)
    except BaseException as error:  # noqa: BLE001  # also what its own methods raise
        return failed(task, seconds, error)
