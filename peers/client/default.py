"""The default client, which the functions of the package use. Settings name its database."""

from __future__ import annotations

import os
import threading

from peers.client.client import Client


class _Default:
    """The client, and the environment variables for which it was made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._environment: dict[str, str] = {}
        self._client: Client | None = None

    def get(self) -> Client:
        """Return the client."""
        environment = {
            name: value for name, value in os.environ.items() if name.startswith(("PEERS_", "PG"))
        }
        with self._lock:
            if self._client is not None and self._environment == environment:
                return self._client
            client = Client(application_name="peers submit")
            before, self._client, self._environment = self._client, client, environment
        if before is not None:
            before.close()
        return client

    def renew_lock(self) -> None:
        """Replace the lock, after a fork: another thread of the parent may have held it."""
        self._lock = threading.Lock()


_default = _Default()
os.register_at_fork(after_in_child=_default.renew_lock)


def default_client() -> Client:
    """Return the client of the package's functions, for the database that the settings name.

    It is made at its first use, and again when an environment variable of the settings or of libpq
    has changed.
    """
    return _default.get()
