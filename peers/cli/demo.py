"""`peers demo`: the demo on the configured database, otherwise on the embedded one."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.cli.parser import add_command, advice
from peers.cli.place import located, settings_of, wants_embedded

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.cli.parser import Commands

_PEERS_MAX: Final = 16
_FILES_MAX: Final = 100_000


def register(commands: Commands) -> None:
    """Declare `demo`."""
    summary = "index Python's library on several peers, and kill one of them"
    parser = add_command(
        commands,
        "demo",
        _demo,
        summary,
        reads=True,
        example="peers demo --files 100",
        epilog="It uses the embedded Postgres unless a database is configured.",
    )
    parser.add_argument(
        "--peers",
        type=_number(_PEERS_MAX),
        default=3,
        metavar="N",
        help=f"number of peers, 1 to {_PEERS_MAX} (default: 3)",
    )
    parser.add_argument(
        "--files",
        type=_number(_FILES_MAX),
        metavar="N",
        help="index N files, picked evenly (default: all)",
    )
    parser.add_argument(
        "--source",
        type=_folder,
        metavar="DIR",
        help="index the Python files below DIR (default: Python's standard library)",
    )
    parser.add_argument("--no-kill", action="store_true", help="do not kill a peer")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep database and peers running until you press Enter or Ctrl-C",
    )


def _demo(args: argparse.Namespace) -> int:
    """Run the demo on a database that has the schema; install it where it is missing."""
    if args.peers == 1 and not args.no_kill:
        args.parser.error("no peer could take over from a single one: use --no-kill or --peers 2")
    settings = settings_of(args)
    if not wants_embedded(args, settings) and not settings.has_database:
        args.embedded = True
    # these are slow to import
    from peers.cli.database import connection_to
    from peers.database import schema
    from peers.demo.main import run
    from peers.embedded import EmbeddedPostgres

    with located(args) as settings, connection_to(settings, args) as connection:
        if settings.embedded or schema.installed_version(connection) is None:
            schema.migrate(connection)
        schema.require(connection)
        place = f"database {connection.info.dbname}"
        if settings.embedded:
            place = (
                f"the embedded Postgres in {EmbeddedPostgres().data} "
                "(--database-url names another database)"
            )
        return run(args, connection, settings.url, place, partial(advice, args))


def _number(most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isdecimal() or not 1 <= int(value) <= most:
            raise argparse.ArgumentTypeError(
                f'must be a whole number from 1 to {most}, not "{value}"'
            )
        return int(value)

    return parse


def _folder(value: str) -> Path:
    if not Path(value).is_dir():
        raise argparse.ArgumentTypeError(f'"{value}" is not a folder')
    return Path(value).resolve()
