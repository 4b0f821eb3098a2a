"""Where a command works: its settings, with the database that is configured, or the embedded one.

Without psycopg, which takes its time to import: `peers run` has more urgent things to start.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from peers.errors import ConfigError, DatabaseUnreachable
from peers.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings, with those flags that the command has. Raises ConfigError."""
    return Settings(
        config=args.config, **{name: getattr(args, name) for name in args.setting_flags}
    )


def wants_embedded(args: argparse.Namespace, settings: Settings) -> bool:
    """Whether flags or settings ask for the embedded database. Raises ConfigError for both."""
    if args.embedded or args.database_url is not None:
        return bool(args.embedded)
    if settings.embedded and settings.has_database:
        raise ConfigError(
            "both a database and the embedded one are configured",
            "`peers config` shows by whom; leave one out, or say --embedded or --database-url.",
        )
    return settings.embedded


@contextmanager
def located(args: argparse.Namespace) -> Iterator[Settings]:
    """The settings with a database; an embedded server is held meanwhile.

    `embedded` then says what it is. Raises ConfigError when no database is configured,
    DatabaseUnreachable when the embedded one cannot be started.
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
    finally:
        postgres.close()


@contextmanager
def embedded_errors() -> Iterator[None]:
    """What is wrong with the embedded server, as an error of a database that cannot be reached."""
    from peers.embedded import EmbeddedError

    try:
        yield
    except EmbeddedError as error:
        raise DatabaseUnreachable(str(error)) from error
