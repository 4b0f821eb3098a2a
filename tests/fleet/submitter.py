"""Tasks without end: what the fleet works on while it is disturbed."""

from __future__ import annotations

import random
import threading
import time
from typing import Final

from peers import Client, PeersError

_EVERY: Final = 0.12
_SECONDS: Final = (0.05, 0.6)
_CHILD_EACH: Final = 10
_LONGEST: Final = 60


class Submitter:
    """A thread that submits tasks until it is stopped; also through an outage."""

    def __init__(self, url: str, seed: int = 13) -> None:
        self._client = Client(url, application_name="fleet submitter")
        self._random = random.Random(seed)
        self._last: list[int] = []
        self._stopped = threading.Event()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="submitter", daemon=True)
        self.accepted: list[int] = []
        """The ids of all tasks that the database has accepted."""
        self.refused = 0
        """How often it was not reached, and the submission was repeated."""

    def start(self) -> None:
        """Submit from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Submit no more, and wait until the last submission was accepted."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(_LONGEST)
        if self._thread.is_alive():
            raise TimeoutError("the last submission was not accepted")
        self._client.close()

    def give_up(self) -> None:
        """Submit no more, whether or not the last submission was accepted."""
        self._stopped.set()
        self._given_up = True
        self._client.close()

    def submit(self, kind: str, queue: str = "default", **args: object) -> int:
        """Submit one task, and count it with the others."""
        task_id = self._client.submit(kind, args, queue=queue)
        self.accepted.append(task_id)
        return task_id

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(_EVERY):
            self._submit(number)
            number += 1

    def _submit(self, number: int) -> None:
        """Submit until it is accepted; the key keeps a submission whose reply was lost single."""
        args = {"n": number, "seconds": self._random.uniform(*_SECONDS)}
        parents = self._last if number % _CHILD_EACH == 0 else []
        while True:
            try:
                task_id = self._client.submit(
                    "step", args, depends_on=parents, idempotency_key=f"fleet-{number}"
                )
            except PeersError:
                if self._given_up:
                    return
                self.refused += 1
                time.sleep(_EVERY)
                continue
            self.accepted.append(task_id)
            self._last = [task_id]
            return
