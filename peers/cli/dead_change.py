"""`peers dead retry` and `peers dead discard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import bulk, dead_queries, output
from peers.cli.argument_types import json_object, task_id
from peers.cli.bulk import NO_EFFECT, Effect
from peers.cli.database import connected
from peers.cli.dead_filter import dead_filter, not_dead_error, say_near_misses
from peers.cli.dead_show import kind_with_ids
from peers.cli.filters import add_cause_options, add_task_options, require_one_way
from peers.cli.options import add_dry_run, add_reason
from peers.cli.parser import add_command
from peers.cli.tasks import each

if TYPE_CHECKING:
    import argparse

    from peers.cli.filters import Filter
    from peers.cli.parser import Commands
    from peers.database.connection import Connection

_ALL: Final = {"all": True}
_CHILDREN: Final = {"retry": "; {} can run after them", "discard": "; {} also cancelled"}
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
        add_dry_run(command)
        add_reason(command)
        add_task_options(command, since="died")
        add_cause_options(command)


def _retry(args: argparse.Namespace) -> int:
    return _change(args, "retry")


def _discard(args: argparse.Namespace) -> int:
    return _change(args, "discard")


def _change(args: argparse.Namespace, verb: str) -> int:
    require_one_way(args)
    with connected(args) as connection:
        wanted = dead_filter(args, connection)
        code, ids = 0, dead_queries.ids(connection, {"ids": args.ids} if args.ids else wanted)
        if args.ids:
            code = _complain_of_others(connection, args, ids)
        elif not ids:
            say_near_misses(connection, args, wanted)
        if args.dry_run:
            _preview(connection, args, verb, {"ids": ids} if args.ids else wanted or _ALL, ids)
            return code
        effect = bulk.apply(connection, args, verb, wanted, ids)
    print(f"{bulk.DONE[verb]} {output.count(effect.tasks, 'dead letter')}{_children(verb, effect)}")
    skipped = len(ids) - effect.tasks
    if skipped:
        output.say(
            f"{output.count(skipped, 'dead letter')} left out, because another session has locked "
            "or changed them. Run the command again."
        )
    return code


def _children(verb: str, effect: Effect) -> str:
    if not effect.children:
        return ""
    return _CHILDREN[verb].format(output.count(effect.children, "held child", "held children"))


def _complain_of_others(connection: Connection, args: argparse.Namespace, dead: list[int]) -> int:
    """Print an error for each of the ids that is no dead letter, and return the exit code."""

    def complain(id: int) -> None:
        raise not_dead_error(connection, args, id)

    known = set(dead)
    others = [task for task in dict.fromkeys(args.ids) if task not in known]
    return each(args, others, complain)


def _preview(
    connection: Connection, args: argparse.Namespace, verb: str, wanted: Filter, ids: list[int]
) -> None:
    """Say what the command would do, and to which children."""
    effect = bulk.preview(connection, args, verb, wanted) if ids else NO_EFFECT
    dead = bulk.tasks_with_ids("dead letter", effect.tasks, ids)
    print(f"would {verb} {dead}{_children(verb, effect)}")
    if effect.children and len(ids) <= _HELD_MAX:
        for row in dead_queries.held_kinds(connection, ids, bulk.IDS_SHOWN):
            print(f"  {kind_with_ids(row)}")
    bulk.say_nothing_changed()
