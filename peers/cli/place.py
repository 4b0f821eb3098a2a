"""Find the database of a command: the configured one or the embedded one.

This module does not import psycopg, which is slow to import, so that `peers run` starts quickly.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from peers.client import place
from peers.errors import DatabaseUnreachable, SchemaUnreleased
from peers.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings, with the options that the command has. Raises ConfigError."""
    return Settings(
        config=args.config, **{name: getattr(args, name) for name in args.setting_flags}
    )


def wants_embedded(args: argparse.Namespace, settings: Settings) -> bool:
    """Return whether the embedded database is asked for. Raises ConfigError if both are."""
    if args.embedded or args.database_url is not None:
        return bool(args.embedded)
    return place.wants_embedded(
        settings, "; for a single command, pass --embedded or --database-url"
    )


@contextmanager
def located(args: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings with a database; keep an embedded server running meanwhile.

    `embedded` then says which of the two it is. Raises ConfigError when no database is configured,
    and DatabaseUnreachable when the embedded one cannot start.
    """
    settings = settings_of(args)
    if not wants_embedded(args, settings):
        _ = settings.url  # raises where nothing is configured
        yield settings.model_copy(update={"embedded": False})
        return
    from peers.embedded import EmbeddedPostgres

    with embedded_errors():
        postgres = EmbeddedPostgres()
        url = SecretStr(postgres.start())
    try:
        yield settings.model_copy(update={"embedded": True, "database_url": url})
    except SchemaUnreleased as error:
        raise SchemaUnreleased(
            f"the embedded database in {postgres.data} cannot be used: {error.message}",
            f"If you need none of its tasks, remove the folder {postgres.data}, "
            "or name another folder in PEERS_EMBEDDED_DATA. Then run the command again.",
        ) from error
    finally:
        postgres.close()


@contextmanager
def embedded_errors() -> Iterator[None]:
    """Turn errors of the embedded server into DatabaseUnreachable."""
    from peers.embedded import EmbeddedError

    try:
        yield
    except EmbeddedError as error:
        raise DatabaseUnreachable(str(error)) from error
