"""`peers dead retry` and `peers dead discard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import bulk, dead_queries, output
from peers.cli.database import connected
from peers.cli.dead_filter import dead_filter, not_dead, say_near_misses
from peers.cli.dead_show import said_kind
from peers.cli.filters import add_bulk_options, add_cause_options, add_task_options
from peers.cli.parser import add_command, advice, json_object, task_id
from peers.cli.tasks import each

if TYPE_CHECKING:
    import argparse

    from peers.cli.bulk import Effect
    from peers.cli.filters import Filter
    from peers.cli.parser import Commands
    from peers.database.connection import Connection

_IDS_SHOWN: Final = 5
_HELD_MAX: Final = 10_000
"""Looking for what more dead letters hold would take long."""


def register(group: Commands) -> None:
    """Declare `dead retry` and `dead discard`."""
    retry = add_command(
        group,
        "retry",
        _retry,
        "retry dead letters with fresh attempts",
        example=(
            "peers dead retry 42 43",
            "peers dead retry --cause-of 42 --dry-run",
            'peers dead retry --kind thumbs.make --since 2h --reason "disk replaced"',
        ),
    )
    retry.add_argument("--args", type=json_object, metavar="JSON", help="replace the args of each")
    discard = add_command(
        group,
        "discard",
        _discard,
        "discard dead letters (they and the children that they hold end cancelled)",
        example=("peers dead discard 42", "peers dead discard --until 30d --dry-run"),
    )
    for command in (retry, discard):
        command.add_argument("ids", type=task_id, nargs="*", metavar="ID", help="id of a dead task")
        command.add_argument("--all", action="store_true", help="all dead letters")
        add_bulk_options(command)
        add_task_options(command, since="died")
        add_cause_options(command)


def _retry(args: argparse.Namespace) -> int:
    return _change(args, "retry")


def _discard(args: argparse.Namespace) -> int:
    return _change(args, "discard")


def _change(args: argparse.Namespace, verb: str) -> int:
    with connected(args) as connection:
        wanted = dead_filter(args, connection)
        if bool(args.ids) + bool(wanted) + args.all != 1:
            args.parser.error(
                "name the tasks in one way: ids, options such as --kind KIND, or --all"
            )
        code, ids = 0, dead_queries.ids(connection, {"ids": args.ids} if args.ids else wanted)
        if args.ids:
            code = _complain_of_others(connection, args, ids)
        elif not ids:
            say_near_misses(connection, args, wanted)
        if args.dry_run:
            _preview(connection, args, verb, {"ids": ids} if args.ids else wanted or _ALL, ids)
            return code
        effect = bulk.apply(connection, args, verb, wanted, ids)
    print(f"{_DONE[verb]} {output.count(effect.tasks, 'dead letter')}{_children(verb, effect)}")
    skipped = len(ids) - effect.tasks
    if skipped:
        output.say(
            f"{output.count(skipped, 'dead letter')} left out, because another session has locked "
            "or changed them. Run the command again."
        )
    return code


_ALL: Final = {"all": True}
_DONE: Final = {"retry": "retried", "discard": "discarded"}
_CHILDREN: Final = {
    "retry": "; {} they held can run once they complete",
    "discard": " and cancelled {} they held",
}


def _children(verb: str, effect: Effect) -> str:
    if not effect.children:
        return ""
    return _CHILDREN[verb].format(output.count(effect.children, "child that", "children that"))


def _complain_of_others(connection: Connection, args: argparse.Namespace, dead: list[int]) -> int:
    """Print an error for each of the ids that is no dead letter, and return the exit code."""

    def complain(id: int) -> None:
        raise not_dead(connection, args, id)

    known = set(dead)
    return each(
        args, [each_id for each_id in dict.fromkeys(args.ids) if each_id not in known], complain
    )


def _preview(
    connection: Connection, args: argparse.Namespace, verb: str, wanted: Filter, ids: list[int]
) -> None:
    """Say what the command would do, and to which children."""
    if not ids:
        print(f"would {verb} 0 dead letters")
        return
    effect = bulk.preview(connection, args, verb, wanted)
    shown = ", ".join(map(str, ids[:_IDS_SHOWN])) + (", …" if len(ids) > _IDS_SHOWN else "")
    print(f"would {verb} {output.count(effect.tasks, 'dead letter')} ({shown})")
    if effect.children:
        what = "can run once they complete" if verb == "retry" else "would be cancelled"
        print(f"{output.count(effect.children, 'child', 'children')} {what}")
    if len(ids) <= _HELD_MAX:
        for row in dead_queries.held_kinds(connection, ids, _IDS_SHOWN):
            print(f"  {said_kind(row)}")
    output.say(
        f"hint: nothing was changed. Without --dry-run, `{advice(args, 'actions')}` lists it."
    )
