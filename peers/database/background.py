"""Run a call in a thread of its own, because nothing can interrupt it.

A name server or a handshake may hang. The caller can stop waiting, so that the main loop goes on
and reacts to signals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from peers.database.backoff import Backoff, RetryTimer
from peers.database.deadlines import BoundedConnection

Result = TypeVar("Result")


class Background(Generic[Result]):
    """One call in a daemon thread, which calls `on_end` at the end.

    Raises `RuntimeError` when no thread can be started.
    """

    def __init__(
        self,
        work: Callable[[], Result],
        discard: Callable[[Result], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work
        self._discard = discard
        self._on_end = on_end
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._cancelled = False
        self._result: list[Result] = []
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="background", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        """Return whether `result` can be called."""
        return self._ended.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait for the end; return False if the call has not ended in time."""
        return self._ended.wait(timeout)

    def result(self) -> Result:
        """Return or raise what the call did. Call this once, when it has ended."""
        if self._error is not None:
            raise self._error
        return self._result.pop()

    def cancel(self) -> None:
        """Stop waiting, and discard the result now or when it comes."""
        with self._lock:
            self._cancelled = True
            results, self._result = self._result, []
        for result in results:
            self._discard(result)

    def _run(self) -> None:
        try:
            result = self._work()
        except Exception as error:  # noqa: BLE001  # `result` raises it again
            self._error = error
        else:
            with self._lock:
                cancelled = self._cancelled
                if not cancelled:
                    self._result.append(result)
            if cancelled:
                self._discard(result)
        self._ended.set()
        self._on_end()


class BackgroundConnector:
    """Connects in the background, and tries again after a growing wait.

    It calls `wake` from another thread when a try has ended.
    """

    def __init__(
        self, connect: Callable[[], BoundedConnection], wake: Callable[[], None], backoff: Backoff
    ) -> None:
        self._connect = connect
        self._wake = wake
        self._retry = RetryTimer(backoff)
        self._attempt: Background[BoundedConnection] | None = None

    @property
    def due_at(self) -> float:
        """Return when (monotonic) the next try is due; infinity while one is under way."""
        return self._retry.due_at if self._attempt is None else float("inf")

    def poll(self) -> BoundedConnection | None:
        """Start a try if one is due; return the connection if the try has ended.

        Raises what connecting raises. The caller then calls `failed`.
        """
        if self._attempt is None and self._retry.is_due:
            self._start()
        return self._take() if self._attempt is not None and self._attempt.has_ended else None

    def wait(self, timeout: float) -> BoundedConnection | None:
        """Try at once, and return the connection if the try ends in time. Raises as `poll` does."""
        if self._attempt is None:
            self._start()
        return self._take() if self._attempt is not None and self._attempt.wait(timeout) else None

    def failed(self) -> float:
        """Wait longer than the last time; return the seconds until the next try."""
        return self._retry.failed()

    def retry_now(self) -> None:
        """Make the next try due at once. The wait after it still grows."""
        self._retry.retry_now()

    def succeeded(self) -> None:
        """Begin with the shortest wait again: the connection has worked."""
        self._retry.succeeded()

    def cancel(self) -> None:
        """Give up the try that is under way."""
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None

    def _start(self) -> None:
        self._attempt = Background(self._connect, lambda connection: connection.close(), self._wake)

    def _take(self) -> BoundedConnection:
        assert self._attempt is not None
        attempt, self._attempt = self._attempt, None
        return attempt.result()
