"""Work that may hang where nothing can end it (a name server, a handshake): in a thread of its own.

Whoever waits for it can stop waiting, so that the main loop turns and signals are heeded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """One call in a daemon thread. `on_end` is called there when it is over.

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
        self._over = threading.Event()
        self._given_up = False
        self._result: list[Result] = []
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="background", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether `take` has something to say."""
        return self._over.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait for the end; False: it is not over yet."""
        return self._over.wait(timeout)

    def take(self) -> Result:
        """Return what the work returned, or raise what it raised. Only when it is over."""
        if self._error is not None:
            raise self._error
        return self._result.pop()

    def give_up(self) -> None:
        """Wait no more: what still comes of it is discarded."""
        with self._lock:
            self._given_up = True
            left, self._result = self._result, []
        for result in left:
            self._discard(result)

    def _run(self) -> None:
        try:
            result = self._work()
        except Exception as error:  # noqa: BLE001  # raised again by `take`
            self._error = error
        else:
            with self._lock:
                unwanted = self._given_up
                if not unwanted:
                    self._result.append(result)
            if unwanted:
                self._discard(result)
        self._over.set()
        self._on_end()
