"""Find the database of a client: the one that was named, or that of the settings."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from peers.errors import ConfigError, DatabaseUnreachable

if TYPE_CHECKING:
    from peers.embedded import EmbeddedPostgres
    from peers.settings import Settings


_REMEDY: Final = ", or pass the URL to Client(…)"


def wants_embedded(settings: Settings, remedy: str) -> bool:
    """Return whether the settings ask for the embedded database.

    Raises ConfigError if they name another one as well; its hint ends with the remedy.
    """
    if settings.embedded and settings.has_database and not _is_embedded(settings.url):
        raise ConfigError(
            "both a database and the embedded one are configured",
            f"`peers config` shows where each comes from. Remove one of them{remedy}.",
        )
    return settings.embedded


def _is_embedded(url: str) -> bool:
    """Return whether this is what `peers db url` prints."""
    from peers.embedded import EmbeddedError, EmbeddedPostgres

    try:
        return url == EmbeddedPostgres().url()
    except EmbeddedError as error:
        raise DatabaseUnreachable(str(error)) from error


class Place:
    """A database, found when its URL is first asked for.

    url: None leaves it to the settings, as the command line does. An embedded database then runs
    until `close`, or until the process has ended.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._postgres: EmbeddedPostgres | None = None

    def url(self) -> str:
        """Return its URL. Raises ConfigError, and DatabaseUnreachable if it cannot be started."""
        with self._lock:
            if self._url is None:
                from peers.settings import Settings

                settings = Settings()
                self._url = self._start() if wants_embedded(settings, _REMEDY) else settings.url
            return self._url

    def _start(self) -> str:
        from peers.database import schema
        from peers.database.connection import connect
        from peers.embedded import EmbeddedError, EmbeddedPostgres

        try:
            self._postgres = EmbeddedPostgres()
            url = self._postgres.start()
        except EmbeddedError as error:
            raise DatabaseUnreachable(str(error)) from error
        with connect(url, application_name="peers client") as connection:
            if schema.installed_version(connection) is None:
                schema.migrate(connection)
        return url

    def close(self) -> None:
        """End the use of an embedded database. It stops with its last user."""
        with self._lock:
            if self._postgres is not None:
                self._postgres.close()
                self._postgres = self._url = None

    def renew_lock(self) -> None:
        """Replace the lock, after a fork: another thread of the parent may have held it."""
        self._lock = threading.Lock()
