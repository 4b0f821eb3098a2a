"""Run the tasks of a test's database in this process, until none is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from peers.client import operations
from peers.client.kinds import Kind, kind_of
from peers.client.transport import perform_in
from peers.errors import BadArgument, ConfigError, Reject, Retry, translated
from peers.handlers import Handler, registry
from peers.protocol.messages import Failed
from peers.spans import Span, timedelta_of
from peers.testing.clock import Clock
from peers.testing.drained import Drained, DrainFailed
from peers.testing.execution import BatchRun, Ended, error_of, require_no_loop, run, run_async
from peers.testing.inline_peer import InlinePeer, Work
from peers.testing.places import connection_of

if TYPE_CHECKING:
    from peers.testing.places import Place

R = TypeVar("R")

MAX_ATTEMPTS: Final = 1000
"""How many attempts a drain runs, unless it is told otherwise."""
_TICK: Final = 0.001
_SHOWN: Final = 3
_UNKNOWN: Final = """
    select distinct kind from peers.task
    where id in (select task_id from peers.ready union all select task_id from peers.ready_limited)
      and queue = any (coalesce(%s, array[queue])) and kind <> all (%s) order by 1
"""


def drain(
    within: Place | None = None,
    *,
    queues: Iterable[str] | None = None,
    kinds: Iterable[Kind] | None = None,
    ahead: Span = 0,
    max_attempts: int = MAX_ATTEMPTS,
    raise_errors: bool = True,
) -> Drained:
    """Run every ready task, and those that they make ready, one after the other in this process.

    The order is that of a peer: by priority, and within limits. Handlers run with the code of a
    worker, and their outcomes are recorded like those of a peer.

    within: a Database, a URL, or a session of the application: then the tasks that it has not
    committed run too, inside its transaction. None: the database of the fixture `peers_database`.
    queues, kinds: only these. ahead: also what becomes due within this time, such as retries,
    scheduled tasks and schedules; the clock is moved to each. max_attempts: with more attempts,
    DrainFailed is raised. raise_errors: raise DrainFailed at the end if a handler has raised
    anything but Retry, Snooze and Reject. Raises ConfigError for a task whose handler is not
    imported.
    """
    with connection_of(within) as connection:
        loop = _Drain(connection, queues, kinds, ahead, max_attempts)
        steps = loop.steps()
        runner = asyncio.Runner()  # it makes a loop only when an async handler needs one
        try:
            _run_to_end(steps, lambda work: _call(work, runner))
        finally:
            runner.close()
        return loop.result(raise_errors=raise_errors)


async def drain_async(
    within: Place | None = None,
    *,
    queues: Iterable[str] | None = None,
    kinds: Iterable[Kind] | None = None,
    ahead: Span = 0,
    max_attempts: int = MAX_ATTEMPTS,
    raise_errors: bool = True,
) -> Drained:
    """Do the same as `drain`; async handlers run on this event loop, and sync ones in a thread."""
    with connection_of(within) as connection:
        loop = _Drain(connection, queues, kinds, ahead, max_attempts)
        steps = loop.steps()
        try:
            work = await _in_thread(lambda: _next(steps, None))
            while work is not None:
                ended = await _call_async(work)
                work = await _in_thread(partial(_next, steps, ended))
        finally:
            await _in_thread(steps.close)
        return await _in_thread(lambda: loop.result(raise_errors=raise_errors))


async def _in_thread(function: Callable[[], R]) -> R:
    """Call it in a thread. When cancelled, wait for its end: it uses the connection."""
    call = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


_Steps = Generator[Work, list[Ended], None]


def _run_to_end(steps: _Steps, call: Callable[[Work], list[Ended]]) -> None:
    try:
        work = _next(steps, None)
        while work is not None:
            work = _next(steps, call(work))
    finally:
        steps.close()


def _next(steps: _Steps, ended: list[Ended] | None) -> Work | None:
    try:
        return next(steps) if ended is None else steps.send(ended)
    except StopIteration:
        return None


def _call(work: Work, runner: asyncio.Runner) -> list[Ended]:
    handler = registry()[work[0].task.kind]
    if handler.is_async:
        require_no_loop("await drain_async(…)")
    if handler.batch_size is not None:
        batch = BatchRun(work)
        return runner.run(batch.run_async()) if handler.is_async else batch.run()
    [attempt] = work
    return [runner.run(run_async(attempt)) if handler.is_async else run(attempt)]


async def _call_async(work: Work) -> list[Ended]:
    handler = registry()[work[0].task.kind]
    if handler.batch_size is not None:
        batch = BatchRun(work)
        return await (batch.run_async() if handler.is_async else asyncio.to_thread(batch.run))
    [attempt] = work
    if handler.is_async:
        return [await run_async(attempt)]
    return [await asyncio.to_thread(run, attempt)]


class _Drain:
    """A drain: what it may run, and what it has run."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        queues: Iterable[str] | None,
        kinds: Iterable[Kind] | None,
        ahead: Span,
        max_attempts: int,
    ) -> None:
        if isinstance(queues, str) or isinstance(kinds, str):
            raise BadArgument("queues and kinds are lists of names", 'Such as queues=["mail"].')
        if type(max_attempts) is not int or max_attempts < 1:
            raise BadArgument(f"max_attempts must be 1 or more, not {max_attempts!r}")
        self._connection = connection
        self._queues = None if queues is None else list(queues)
        self._handlers = _handlers(kinds)
        self._all_kinds = kinds is None
        self._ahead = timedelta_of(ahead).total_seconds()
        self._max_attempts = max_attempts
        self._most = max((handler.batch_size or 1 for handler in self._handlers), default=1)
        self._ended: list[Ended] = []
        self._is_endless = False

    def steps(self) -> _Steps:
        """Yield what to run, and take what became of it."""
        peer, left, least = InlinePeer(self._connection), self._ahead, _TICK
        with translated():
            with peer.joined(self._handlers):
                peer.declare(self._handlers)
            while True:
                before = len(self._ended)
                # it joins again, because a lease ends when the clock moves
                with peer.joined(self._handlers):
                    yield from self._run_ready(peer)
                    wait = min(peer.do_what_is_due(), peer.opens_in)
                if self._is_endless or not left or wait > left:
                    return
                # a session may have locked what is due: wait longer each time
                least = _TICK if len(self._ended) > before else 2 * least
                wait = min(max(wait + _TICK, least), left)
                Clock(self._connection).move(wait)
                left -= wait

    def _run_ready(self, peer: InlinePeer) -> _Steps:
        """Run what is ready, and what becomes due meanwhile."""
        while True:
            peer.do_what_is_due()
            work = peer.claim(self._queues, self._most)
            if work is None:
                self._require_handlers()
                return
            if len(self._ended) + len(work) > self._max_attempts:
                self._is_endless = True  # leaving gives back what was claimed
                return
            ended = yield work
            peer.record(ended)
            self._ended += ended

    def _require_handlers(self) -> None:
        """Raise ConfigError if a ready task has no handler here."""
        if not self._all_kinds:
            return
        known = [handler.kind for handler in self._handlers]
        found = [
            kind for (kind,) in self._connection.execute(_UNKNOWN, (self._queues, known)).fetchall()
        ]
        if found:
            raise ConfigError(
                f"no handler is imported for {', '.join(found)}",
                "Import the module that has it in the test, or name the kinds to run: kinds=[…].",
            )

    def result(self, *, raise_errors: bool) -> Drained:
        """Return what was run. Raises DrainFailed."""
        ids = sorted({ended.task.task_id for ended in self._ended})
        tasks = [perform_in(self._connection, operations.get(each)) for each in ids]
        failed = [each for each in self._ended if isinstance(each.outcome, Failed)]
        drained = Drained(len(self._ended), tasks, [error_of(each) for each in failed])
        if self._is_endless:
            kinds = Counter(each.task.kind for each in self._ended).most_common(_SHOWN)
            most = ", ".join(f"{kind} {number} times" for kind, number in kinds)
            raise DrainFailed(
                f"there was no end after {len(self._ended)} attempts: {most}",
                "A task may submit itself, or fail again and again. For more, pass max_attempts.",
                drained,
            )
        unexpected = [each for each in failed if not _is_deliberate(each.error)]
        if raise_errors and unexpected:
            raise _failure(unexpected, drained) from error_of(unexpected[0])
        return drained


def _handlers(kinds: Iterable[Kind] | None) -> Sequence[Handler]:
    every = registry()
    if kinds is None:
        return list(every.values())
    names = [kind_of(kind) for kind in kinds]
    missing = [name for name in names if name not in every]
    if missing:
        raise ConfigError(
            f"no handler is imported for {', '.join(missing)}", "Import its module in the test."
        )
    return [every[name] for name in names]


def _is_deliberate(error: BaseException | None) -> bool:
    return isinstance(error, Retry | Reject)


def _failure(failed: list[Ended], drained: Drained) -> DrainFailed:
    first = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    outcome = first.outcome
    assert isinstance(outcome, Failed)
    return DrainFailed(
        f"attempt {first.task.attempt} of task {first.task.task_id}, {first.task.kind}, has "
        f"failed: {outcome.error_type}: {outcome.error_message}{more}",
        "Pass raise_errors=False if that is what the test is about.",
        drained,
    )
