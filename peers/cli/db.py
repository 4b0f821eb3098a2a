"""`peers db`: the embedded database, or the configured one."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from peers.cli import output
from peers.cli.parser import add_command, add_group
from peers.cli.place import embedded_errors, settings_of, wants_embedded
from peers.embedded import EmbeddedPostgres
from peers.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from peers.cli.parser import Commands
    from peers.settings import Settings


def register(commands: Commands) -> None:
    """Declare `db` and its commands."""
    group = add_group(
        commands, "db", "the embedded database, or the configured one", example="peers db psql"
    )
    add_command(
        group, "url", _url, "print the database's URL with its password", reads=True,
        example="psql \"$(peers db url)\"",
    )  # fmt: skip
    add_command(
        group,
        "psql",
        _psql,
        "open psql on this database; arguments that Peers does not know are passed to psql",
        example="peers db psql -- -c 'table peers.queue_status'",
        usage="peers db psql [options] [psql's arguments ...]",
        accepts=lambda _: True,
    )
    add_command(
        group, "stop", _stop, "stop the embedded database, even if it is in use",
        example="peers db stop",
    )  # fmt: skip


def _is_embedded(args: argparse.Namespace, settings: Settings) -> bool:
    if wants_embedded(args, settings):
        return True
    if settings.has_database:
        return False
    output.say("peers: no database is configured; this is the embedded one")
    return True


def _url(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if embedded := _is_embedded(args, settings):
        with embedded_errors():
            postgres = EmbeddedPostgres()
            url, running = postgres.url(), postgres.pid is not None
        if not running:
            output.say("It is not running. It starts with its first user and stops with its last.")
    else:
        url, running = settings.url, None
        if not url:
            output.say("libpq's variables (PGHOST, PGSERVICE …) name the database.")
    if args.json:
        output.document({"url": url, "embedded": embedded, "running": running})
    else:
        print(url)
    return 0


def _psql(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if not _is_embedded(args, settings):
        return _run_psql(Path(which("psql") or ""), settings.url, _own_words(args.rest))
    with embedded_errors(), EmbeddedPostgres() as postgres:
        return _run_psql(postgres.psql() or Path(), postgres.url(), _own_words(args.rest))


def _own_words(words: list[str]) -> list[str]:
    """Return the words after a leading "--"."""
    return words[1:] if words[:1] == ["--"] else words


def _run_psql(psql: Path, url: str, words: list[str]) -> int:
    """Run psql. The password goes through the environment, because arguments are public."""
    if not psql.name:
        raise ConfigError(
            "there is no psql on this machine", "On Debian: apt-get install postgresql-client."
        )
    parameters: dict[str, Any] = conninfo_to_dict(url)
    password = parameters.pop("password", None)
    environment = {**os.environ, "PGPASSWORD": str(password)} if password else None
    command = [str(psql), "--dbname", make_conninfo(**parameters), *words]
    with _interrupts_are_for_psql():
        return subprocess.run(command, env=environment, check=False).returncode


@contextmanager
def _interrupts_are_for_psql() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(args: argparse.Namespace) -> int:
    settings_of(args)
    with embedded_errors():
        was_running = EmbeddedPostgres().stop()
    print("the embedded database is stopped" if was_running else "it was not running")
    return 0
