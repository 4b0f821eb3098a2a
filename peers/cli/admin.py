"""`peers migrate`, `check`, `config`: the schema, its health, and the settings."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from peers.cli import output
from peers.cli.database import connected, connection_to, persistently
from peers.cli.parser import add_command, advice
from peers.cli.place import located, settings_of
from peers.database import functions, schema
from peers.embedded import EmbeddedPostgres
from peers.embedded.places import DATA_VARIABLE
from peers.logs import log_output

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands


def register(commands: Commands) -> None:
    """Declare the commands of this file."""
    migrate = add_command(
        commands, "migrate", _migrate, "create or update the schema", reads=True,
        example="peers migrate --dry-run",
    )  # fmt: skip
    migrate.add_argument(
        "--dry-run",
        action="store_true",
        help="only list the files that would be applied: new changes of tables, and the functions, "
        "which are applied each time",
    )
    check = add_command(
        commands,
        "check",
        _check,
        "compare stored counters and states with a recount (exit code 1 if they differ)",
        example="peers check --repair",
        reads=True,
    )
    check.add_argument("--repair", action="store_true", help="repair the differences")
    add_command(
        commands,
        "config",
        _config,
        "show the effective settings and where each comes from",
        example="peers config --json",
        reads=True,
    )


def _migrate(args: argparse.Namespace) -> int:
    with located(args) as settings, connection_to(settings, args) as connection:
        log_output.configure(settings.log_format, settings.log_level)
        files = schema.migrate(connection, args.dry_run)
    if args.json:
        output.document({"dry_run": args.dry_run, "files": files})
        return 0
    new = [file for file in files if schema.changes_tables(file)]
    for file in files if args.dry_run else new:  # the others are the same each time
        print(file)
    tables = output.count(len(new), "new file with tables", "new files with tables")
    others = output.count(len(files) - len(new), "file") + " with functions, applied each time"
    what = f"{tables}, and {others}" if new else f"no new tables; {others}"
    output.say(
        f"{'would apply' if args.dry_run else 'applied'}: {what}"
        f"{'' if args.dry_run else '. The schema is up to date.'}"
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        problems = persistently(functions.check, connection, args.repair)
    if args.json:
        output.document({"problems": [problem._asdict() for problem in problems]})
    elif problems:
        output.table(
            ("TASK", "REPAIRED", "PROBLEM"),
            [(each.task_id, "yes" if each.repaired else "no", each.problem) for each in problems],
        )
    if all(problem.repaired for problem in problems):
        output.say(
            f"{output.count(len(problems), 'problem')} repaired" if problems else "all is well"
        )
        return 0
    remedy = advice(args, "check --repair")
    output.say(f"{output.count(len(problems), 'problem')}; `{remedy}` repairs them")
    return 1


def _config(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    origins = settings.origins()
    if args.json:
        output.document(
            {each.name: {"value": each.value, "origin": each.origin} for each in origins}
        )
        return 0
    output.table(
        ("SETTING", "VALUE", "SET BY"), origins, sys.maxsize
    )  # a shortened URL would be useless
    if settings.database_url is None and settings.has_database:
        output.say("libpq's variables (PGHOST, PGSERVICE …) name the database.")
    if settings.embedded or os.environ.get(DATA_VARIABLE):
        output.say(
            f"The embedded database keeps its data in {EmbeddedPostgres().data} "
            f"({DATA_VARIABLE} names another folder)."
        )
    return 0
