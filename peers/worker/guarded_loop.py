"""The event loop that async handlers share: no handler can end it, or stop another handler.

A handler may start tasks that call `sys.exit`, stop the loop or cancel every task they find. That
is harmless in a script. Here it would stop all other handlers of the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final

from peers.protocol.running_marker import RunningMarker
from peers.worker.handler_call import (
    ENDS,
    HandlerCall,
    HandlerTask,
    MainCoroutine,
    MarkedCoroutine,
    current_call,
)
from peers.worker.precise_selector import PreciseSelector

_NOT_FOR_HANDLERS: Final = (
    "stop",
    "close",
    "set_task_factory",
    "shutdown_asyncgens",
    "shutdown_default_executor",
)


class GuardedLoop:
    """An event loop that runs until `stop()` of this class is called."""

    def __init__(self, marker: RunningMarker) -> None:
        self.loop = _new_event_loop()
        self._marker = marker
        self._context = copy_context()
        self._stopped = False
        self.loop.set_task_factory(self._make_task)
        for name in _NOT_FOR_HANDLERS:
            self._keep_from_handlers(name)
        self._carry_context()

    def run(self) -> None:
        """Run until stopped, whatever callbacks raise."""
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            try:
                self.loop.run_forever()
            except ENDS as error:  # from a callback: marked coroutines do not let these through
                call = _call_of_callback(error.__traceback__)
                if call is not None:
                    call.end(error)

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped = True
        self.loop.stop()

    def start(
        self, coroutine: Coroutine[Any, Any, None], call: HandlerCall,
        on_error: Callable[[BaseException], None],
    ) -> asyncio.Task[None]:  # fmt: skip
        """Start the coroutine that runs the handler of `call`, in a context of its own.

        `on_error` gets what the coroutine raises.
        """
        main = MainCoroutine(coroutine, call, self._marker, on_error)
        # not a copy of the current context: this may be called where another handler has ended
        task = HandlerTask(main, loop=self.loop, context=self._context.copy())
        task.call = call
        call.main = task
        return task

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """Make a task; mark the tasks that a handler starts like the handler itself."""
        call = current_call.get()
        if call is not None and isinstance(coroutine, Coroutine):
            coroutine = MarkedCoroutine(coroutine, call, self._marker)
        task = HandlerTask(coroutine, loop=loop, **options)
        task.call = call
        return task

    def _carry_context(self) -> None:
        """Run in the handler's context what it gives to a thread, so that its output is named."""
        original = self.loop.run_in_executor

        def run_in_executor(
            executor: Executor | None, function: Callable[..., Any], *args: Any
        ) -> Any:
            if executor is None or isinstance(executor, ThreadPoolExecutor):
                return original(executor, copy_context().run, function, *args)
            return original(executor, function, *args)

        with contextlib.suppress(AttributeError):  # a loop written in C takes no attributes
            self.loop.run_in_executor = run_in_executor  # type: ignore[method-assign, assignment]

    def _keep_from_handlers(self, name: str) -> None:
        original: Callable[..., Any] = getattr(self.loop, name)

        def guarded(*arguments: Any, **options: Any) -> Any:
            if current_call.get() is not None:
                raise RuntimeError(
                    f"a handler must not call {name}() of the event loop: other handlers run on it"
                )
            return original(*arguments, **options)

        try:
            setattr(self.loop, name, guarded)
        except AttributeError:
            return  # a loop written in C (the app has set its policy) takes no attributes


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop with precise timers, or the loop that the app's policy makes."""
    loop = asyncio.new_event_loop()
    if type(loop) is not asyncio.SelectorEventLoop:
        return loop
    loop.close()
    return asyncio.SelectorEventLoop(PreciseSelector())


def _call_of_callback(frames: TracebackType | None) -> HandlerCall | None:
    """Return the handler call for which the callback ran that raised."""
    while frames is not None:
        if frames.tb_frame.f_code is asyncio.Handle._run.__code__:  # noqa: SLF001 - there is no public way
            handle = frames.tb_frame.f_locals["self"]
            call: HandlerCall | None = handle._context.get(current_call)  # noqa: SLF001
            return call
        frames = frames.tb_next
    return None
