"""Connect a prediction to its database."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from peers.cli.database import connection_to
from peers.database import schema

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from peers.database.connection import Connection
    from peers.settings import Settings


def connecting(
    settings: Settings, args: argparse.Namespace
) -> Callable[[], AbstractContextManager[Connection]]:
    """Return a function that opens connections in autocommit mode; check the schema first."""
    with connection_to(settings, args) as connection:
        if settings.embedded:
            schema.migrate(connection)
        schema.require(connection)

    @contextmanager
    def connect() -> Iterator[Connection]:
        with connection_to(settings, args, pooled=False) as connection:
            connection.autocommit = True
            yield connection

    return connect
