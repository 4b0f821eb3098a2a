"""A call of an async handler, and the coroutines and asyncio tasks that run for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Final

from peers.protocol.running_marker import RunningMarker

ENDS: Final = (SystemExit, KeyboardInterrupt)
"""What asyncio lets through to end the process."""


@dataclass(slots=True, eq=False)
class HandlerCall:
    """The handler call that a coroutine runs: its first execution id, and how many ids it spans.

    `with call:` is around the handler's own code. If that is cancelled, the next call of the same
    batch is not.
    """

    execution_id: int
    span: int = 1
    active: bool = False
    """Whether the handler's own code runs, so that cancelling the coroutine reaches the handler."""
    main: asyncio.Task[None] | None = None
    exit: BaseException | None = None
    """What a task or callback of the handler raised that would have ended the worker."""
    limit_ns: int | None = None
    """How long the call may block the loop (`kill_after`); None: without a limit."""
    _reset: Token[HandlerCall | None] | None = None

    def __enter__(self) -> None:
        self._reset = current_call.set(self)
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False
        if self._reset is not None:
            current_call.reset(self._reset)
        main = self.main
        while main is not None and main.cancelling():
            main.uncancel()

    def kill_at_ns(self, now_ns: int) -> int | None:
        """Return until when the call may block the loop that it gets now."""
        return None if self.limit_ns is None else now_ns + self.limit_ns

    def __contains__(self, execution_id: int) -> bool:
        return self.execution_id <= execution_id < self.execution_id + self.span

    def end(self, error: BaseException) -> None:
        """End the handler, because a task that it started wants to end the process."""
        if self.active and self.exit is None and self.main is not None:
            self.exit = error
            self.main.get_loop().call_soon(self.main.cancel)

    def why(self, error: BaseException) -> BaseException:
        """Return what ended the handler that raised `error`."""
        return self.exit or error


current_call: Final[ContextVar[HandlerCall | None]] = ContextVar("peers_call", default=None)
"""The handler call that this code runs for. Tasks and callbacks inherit it from their creator."""


class HandlerExited(RuntimeError):  # noqa: N818 - the name says what happened
    """A task that a handler had started tried to end the process; the cause says how."""


class MarkedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that sets the running marker to its call while it has the loop.

    So the peer can tell which handler crashed the worker, and which one does not yield.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], call: HandlerCall, marker: RunningMarker
    ) -> None:
        self._coroutine = coroutine
        self._call = call
        self._marker = marker

    def send(self, value: Any, /) -> Any:
        """Run it to its next await."""
        self._mark()
        try:
            return self._coroutine.send(value)
        except ENDS as error:
            raise self._exited(error) from error
        finally:
            self._marker.clear()

    def throw(self, error: Any, *_: Any) -> Any:
        """Raise in it, and run it to its next await."""
        self._mark()
        try:
            return self._coroutine.throw(error)
        except ENDS as exit_:
            raise self._exited(exit_) from exit_
        finally:
            self._marker.clear()

    def _mark(self) -> None:
        now_ns = time.monotonic_ns()
        self._marker.start(self._call.execution_id, now_ns, self._call.span)
        if self._call.limit_ns is not None:
            self._marker.set_kill_at(self._call.kill_at_ns(now_ns))

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def _exited(self, error: BaseException) -> HandlerExited:
        """Return an error in place of the two that asyncio lets through to end the process."""
        self._call.end(error)
        return HandlerExited(f"a task of a handler raised {type(error).__name__}")

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """Return the coroutine's name or state, for libraries that inspect tasks."""
        return getattr(self._coroutine, name)


class MainCoroutine(MarkedCoroutine):
    """The coroutine that runs a handler. When it raises, `on_error` gets the error.

    It also sees the cancellation of its task before the handler's own code has run.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], call: HandlerCall, marker: RunningMarker,
        on_error: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__(coroutine, call, marker)
        self._on_error = on_error

    def send(self, value: Any, /) -> Any:
        """Run it to its next await."""
        try:
            return super().send(value)
        except StopIteration:
            raise
        except BaseException as error:  # noqa: BLE001  # its task has nobody else who would look at it
            self._on_error(error)
        raise StopIteration

    def throw(self, error: Any, *_: Any) -> Any:
        """Raise in it, and run it to its next await."""
        try:
            return super().throw(error)
        except StopIteration:
            raise
        except BaseException as raised:  # noqa: BLE001
            self._on_error(raised)
        raise StopIteration


class HandlerTask(asyncio.Task[Any]):
    """A task of a handler. No other handler can cancel it while its own handler runs."""

    call: HandlerCall | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task; return False when it has ended, or belongs to another handler."""
        asking, call = current_call.get(), self.call
        is_foreign = asking is not None and call is not None and asking is not call
        if is_foreign and call is not None and (call.active or call.main is self):
            return False  # `main` also before it runs for the first time
        return super().cancel(msg)
