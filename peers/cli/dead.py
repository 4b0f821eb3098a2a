"""`peers dead`: list, show, retry or discard dead letters."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from peers.cli import dead_change, dead_queries, dead_show, output
from peers.cli.database import connected
from peers.cli.dead_filter import dead_filter, say_near_misses
from peers.cli.filters import add_cause_options, add_task_options
from peers.cli.options import add_limit
from peers.cli.parser import add_command, add_group, advice

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.cli.rows import Row

_LISTED: Final = 50


def register(commands: Commands) -> None:
    """Declare `dead` and its commands."""
    group = add_group(
        commands,
        "dead",
        "dead letters: tasks that failed for good",
        example="peers dead list --by-cause",
    )
    listing = add_command(
        group,
        "list",
        _list,
        "list dead letters, newest first",
        example=(
            "peers dead list --by-cause",
            "peers dead list --kind thumbs.make --since 2h",
            'peers dead list --error "connection refused" --json',
        ),
        reads=True,
    )
    listing.add_argument(
        "--by-cause",
        action="store_true",
        help="group them by kind, error type and the frame that raised, the most frequent first",
    )
    add_limit(listing, _LISTED)
    add_task_options(listing, since="died")
    add_cause_options(listing)
    dead_show.register(group)
    dead_change.register(group)


def _list(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        wanted = dead_filter(args, connection)
        if args.by_cause:
            found = dead_queries.causes(connection, wanted)
        else:
            found = dead_queries.dead_letters(connection, wanted, args.limit)
        if not found and not args.json:
            say_near_misses(connection, args, wanted)
            return 0
    if args.by_cause:
        _show_causes(args, found)
    else:
        _show_letters(args, found)
    return 0


def _show_letters(args: argparse.Namespace, found: list[Row]) -> None:
    total = found[0]["total"] if found else 0
    for letter in found:
        del letter["total"]
    if args.json:
        output.document({"total": total, "dead_letters": found})
        return
    output.table(
        ("TASK", "KIND", "QUEUE", "ATTEMPTS", "DIED", "HOLDS", "ERROR"),
        [
            (
                letter["task_id"],
                letter["kind"],
                letter["queue"],
                letter["attempts"],
                f"{output.span(letter['died_ago_seconds'])} ago",
                letter["held_children"],
                f"{letter['error_type']}: {letter['error_message']}",
            )
            for letter in found
        ],
    )
    output.say_more(total, len(found))
    output.say(
        f"hint: `{advice(args, 'dead show ID')}` shows the tracebacks, "
        f"`{advice(args, 'dead list --by-cause')}` groups them by cause."
    )


def _show_causes(args: argparse.Namespace, found: list[Row]) -> None:
    if args.json:
        causes = [{**cause, "retry": _retry(args, cause)} for cause in found]
        output.document({"total": sum(cause["tasks"] for cause in found), "causes": causes})
        return
    for number, cause in enumerate(found[: args.limit]):
        if number:
            print()
        times = "died {} ago" if cause["tasks"] == 1 else "the last one died {} ago"
        what = output.count(cause["tasks"], "dead letter")
        print(
            output.one_line(
                f"{what} of kind {cause['kind']}, "
                f"{times.format(output.span(cause['newest_ago_seconds']))}"
            )
        )
        raised = f", raised in {cause['frame']}" if cause["frame"] else ""
        print("  " + output.one_line(f"{cause['error_type']}{raised}"))
        example = advice(args, f"dead show {cause['example_id']}")
        print(f"  example: {example}")
        print(f"  retry:   {output.readable(_retry(args, cause))}")
    if len(found) > args.limit:
        output.say(f"… and {len(found) - args.limit:,} more causes: --limit {len(found)} shows all")
    output.say("hint: fix the cause, then retry; add --dry-run to see first what would be done.")


def _retry(args: argparse.Namespace, cause: dict[str, Any]) -> str:
    """Return the command that retries the dead letters of a cause, by its filter."""
    words = ["--kind", cause["kind"]]
    for option, value in (("--error-type", cause["error_type"]), ("--frame", cause["frame"])):
        if value is not None:
            words += [option, value]
    return advice(args, f"dead retry {shlex.join(words)}")
