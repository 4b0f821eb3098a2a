"""`peers predict status|list|cancel|clean`: runs that exist already."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from peers.cli import output
from peers.cli.argument_types import age, name
from peers.cli.options import add_limit
from peers.cli.parser import add_command
from peers.cli.place import located
from peers.cli.predict.database import connecting
from peers.cli.predict.extra import require_extra

if TYPE_CHECKING:
    from peers.cli.parser import Commands

_LISTED: Final = 50
_KILO: Final = 1024


def register(group: Commands) -> None:
    """Declare the commands of this file."""
    status = add_command(
        group, "status", _status, "show a run (exit code 1 or 5 if not all rows were predicted)",
        example="peers predict status scores --watch",
        reads=True,
    )  # fmt: skip
    status.add_argument("name", type=name, metavar="NAME", help="name or id of the run")
    status.add_argument("--watch", action="store_true", help="wait until the run has ended")
    listing = add_command(
        group, "list", _list, "list runs, newest first", reads=True, example="peers predict list"
    )
    add_limit(listing, _LISTED)
    cancel = add_command(
        group, "cancel", _cancel, "cancel a run (the same predict command resumes it later)",
        example="peers predict cancel scores",
        reads=True,
    )  # fmt: skip
    cancel.add_argument("name", type=name, metavar="NAME", help="name or id of the run")
    clean = add_command(
        group,
        "clean",
        _clean,
        "delete the intermediate files of runs that have ended (outputs stay)",
        example="peers predict clean --older-than 30d --dry-run",
        reads=True,
    )
    which = clean.add_mutually_exclusive_group()
    which.add_argument(
        "name", type=name, nargs="?", metavar="NAME",
        help="only this run, if it has ended (default: all runs that are done)",
    )  # fmt: skip
    which.add_argument(
        "--older-than",
        type=age,
        metavar="DURATION",
        help="runs that ended longer ago than this, such as 30d",
    )
    clean.add_argument("--dry-run", action="store_true", help="only list them, with their sizes")


def _status(args: argparse.Namespace) -> int:
    require_extra()
    from peers.predict.run.command import status

    with located(args) as settings:
        summary = status(connecting(settings, args), args.name, wait=args.watch)
    if args.json:
        output.document(summary.as_json())
    else:
        print("\n".join(summary.lines()))
    return summary.exit_code()


def _list(args: argparse.Namespace) -> int:
    require_extra()
    from peers.predict.run.runs import list_runs

    with located(args) as settings, connecting(settings, args)() as connection:
        total, found = list_runs(connection, args.limit)
    if args.json:
        output.document({"total": total, "runs": [run.as_json() for run in found]})
        return 0
    if not found:
        output.say("no runs")
        return 0
    output.table(
        ("NAME", "RUN", "STATE", "ROWS", "PREDICTED", "DEAD", "STARTED", "OUTPUT"),
        [
            (
                run.name, run.run, run.state, run.rows, run.predicted, run.dead,
                f"{output.span(run.age)} ago", run.output,
            )
            for run in found
        ],
        whole=("RUN",),
        paths=("OUTPUT",),
    )  # fmt: skip
    output.say_more(total, len(found))
    return 0


def _cancel(args: argparse.Namespace) -> int:
    require_extra()
    from peers.predict.run.command import cancel

    with located(args) as settings:
        summary, count = cancel(connecting(settings, args), args.name)
    if args.json:
        output.document({**summary.as_json(), "cancelled_tasks": count})
    else:
        label = f"{summary.name} ({summary.run})" if summary.name else summary.run
        ended = f"{output.count(count, 'task')} ended" if count else "nothing was under way"
        print(f"run {label} is {summary.state}: {ended}")
    return 0


def _clean(args: argparse.Namespace) -> int:
    require_extra()
    from peers.predict.run.runs import clean

    with located(args) as settings, connecting(settings, args)() as connection:
        cleaned = clean(
            connection, name=args.name, older_than=args.older_than, dry_run=args.dry_run
        )
    freed = sum(run.bytes for run in cleaned)
    if args.json:
        runs = [run.as_json() for run in cleaned]
        output.document({"dry_run": args.dry_run, "bytes": freed, "runs": runs})
        return 0
    if cleaned:
        output.table(
            ("NAME", "RUN", "STATE", "SIZE", "FOLDER"),
            [(run.name, run.run, run.state, _size(run.bytes), run.folder) for run in cleaned],
            whole=("RUN",),
        )
    verb = "would be freed" if args.dry_run else "freed"
    output.say(f"{_size(freed)} {verb}, in {output.count(len(cleaned), 'run')}")
    return 0


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < _KILO:
            return f"{count:.0f} {unit}"
        count /= _KILO
    return f"{count:,.1f} GiB"
