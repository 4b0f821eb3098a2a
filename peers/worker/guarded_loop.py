"""The event loop that async handlers share: none of them can end it, or stop what is another's.

A handler may start tasks of its own that call `sys.exit`, stop the loop or cancel everything that
they find. In a script that is their right; here it would take all others along.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from peers.protocol.running_marker import Page

_ENDS: Final = (SystemExit, KeyboardInterrupt)
_NOT_FOR_HANDLERS: Final = (
    "stop",
    "close",
    "set_task_factory",
    "shutdown_asyncgens",
    "shutdown_default_executor",
)


@dataclass(slots=True, eq=False)
class Call:
    """What a coroutine runs at the moment: the first ticket, and how far its tickets reach."""

    ticket: int
    span: int = 1
    active: bool = False
    """Whether the handler has it, so that cancelling reaches the handler."""
    main: asyncio.Task[None] | None = None
    exit: BaseException | None = None
    """What was raised in a task or callback of the handler, and would have ended the worker."""

    limit_ns: int | None = None
    """How long it may keep the loop to itself; None: the parent has no such limit."""

    def due_ns(self, now_ns: int) -> int | None:
        """Return until when it may have the loop that it gets now."""
        return None if self.limit_ns is None else now_ns + self.limit_ns

    def __contains__(self, ticket: int) -> bool:
        return self.ticket <= ticket < self.ticket + self.span

    def end(self, error: BaseException) -> None:
        """End the handler: something that it started wants the process to end."""
        if self.active and self.exit is None and self.main is not None:
            self.exit = error
            self.main.get_loop().call_soon(self.main.cancel)

    def why(self, error: BaseException) -> BaseException:
        """Return what ended the handler that raised `error`."""
        return self.exit or error


calling: Final[ContextVar[Call | None]] = ContextVar("peers_call", default=None)
"""The call on whose behalf code runs; tasks and callbacks inherit it from whoever makes them."""


class HandlerExited(RuntimeError):  # noqa: N818 - a name says what is the matter
    """A task that a handler had started wanted the process to end; its cause says how."""


class Watched(Coroutine[Any, Any, Any]):
    """A coroutine that leaves its call on the page while it has the loop.

    So the parent can tell who crashed the worker, and who does not yield.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], call: Call, page: Page) -> None:
        self._coroutine = coroutine
        self._call = call
        self._page = page

    def send(self, value: Any, /) -> Any:
        """Run it to its next await."""
        self._take_loop()
        try:
            return self._coroutine.send(value)
        except _ENDS as error:
            raise self._exited(error) from error
        finally:
            self._page.rest()

    def throw(self, error: Any, *_: Any) -> Any:
        """Raise in it, and run it to its next await."""
        self._take_loop()
        try:
            return self._coroutine.throw(error)
        except _ENDS as exit_:
            raise self._exited(exit_) from exit_
        finally:
            self._page.rest()

    def _take_loop(self) -> None:
        now_ns = time.monotonic_ns()
        self._page.start(self._call.ticket, now_ns, self._call.span)
        if self._call.limit_ns is not None:
            self._page.limit(self._call.due_ns(now_ns))

    def close(self) -> None:
        """Close what is watched."""
        self._coroutine.close()

    def _exited(self, error: BaseException) -> HandlerExited:
        """Keep it from asyncio, which lets these two through to the end of the process."""
        self._call.end(error)
        return HandlerExited(f"a task of a handler raised {type(error).__name__}")

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """Return its name or state, for libraries that look into tasks."""
        return getattr(self._coroutine, name)


class HandlerTask(asyncio.Task[Any]):
    """A task of a handler, which no other handler can cancel while that one runs."""

    call: Call | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it; False when it is over, or another handler's."""
        asking, call = calling.get(), self.call
        is_foreign = asking is not None and call is not None and asking is not call
        if is_foreign and call is not None and (call.active or call.main is self):
            return False  # `main` also before its first turn
        return super().cancel(msg)


class GuardedLoop:
    """An event loop, run until `stop()` of this class is called."""

    def __init__(self, page: Page) -> None:
        self.loop = asyncio.new_event_loop()
        self._page = page
        self._stopped = False
        self.loop.set_task_factory(self._make_task)
        for name in _NOT_FOR_HANDLERS:
            self._keep_from_handlers(name)

    def run(self) -> None:
        """Run until stopped, whatever callbacks raise."""
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            try:
                self.loop.run_forever()
            except _ENDS as error:  # of a callback: tasks are watched
                call = _call_of(error.__traceback__)
                if call is not None:
                    call.end(error)

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped = True
        self.loop.stop()

    def start(self, coroutine: Coroutine[Any, Any, None], call: Call) -> asyncio.Task[None]:
        """Start the coroutine that runs the handler of `call`."""
        task: asyncio.Task[None] = self.loop.create_task(Watched(coroutine, call, self._page))
        if isinstance(task, HandlerTask):
            task.call = call
        call.main = task
        return task

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """Make every task; those of a handler are watched as the handler itself is."""
        call = calling.get()
        if call is not None and isinstance(coroutine, Coroutine):
            coroutine = Watched(coroutine, call, self._page)
        task = HandlerTask(coroutine, loop=loop, **options)
        task.call = call
        return task

    def _keep_from_handlers(self, name: str) -> None:
        original: Callable[..., Any] = getattr(self.loop, name)

        def guarded(*arguments: Any, **options: Any) -> Any:
            if calling.get() is not None:
                raise RuntimeError(
                    f"a handler must not call {name}() of the event loop: others run on it"
                )
            return original(*arguments, **options)

        try:
            setattr(self.loop, name, guarded)
        except AttributeError:
            return  # a loop in C, of a policy that the app has set, has no place for it


def _call_of(frames: TracebackType | None) -> Call | None:
    """Return the call on whose behalf a callback ran that raised."""
    while frames is not None:
        if frames.tb_frame.f_code is asyncio.Handle._run.__code__:  # noqa: SLF001 - nothing else tells
            handle = frames.tb_frame.f_locals["self"]
            call: Call | None = handle._context.get(calling)  # noqa: SLF001
            return call
        frames = frames.tb_next
    return None
