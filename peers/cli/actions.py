"""`peers actions`: what operators did, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import output
from peers.cli.argument_types import duration, text
from peers.cli.database import connected
from peers.cli.exact_json import written
from peers.cli.options import add_limit
from peers.cli.parser import add_command
from peers.cli.rows import rows

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.cli.rows import Row

_LISTED: Final = 50
_ACTIONS: Final = """
    select a.id, a.at, a.role, a.client, host(a.host) as host, a.verb, a.target, a.tasks,
           a.children, a.task_ids, a.reason
    from peers.action a
    where (%(since)s::interval is null
           or a.at >= peers.now() - least(%(since)s::interval, interval '1000 years'))
      and (%(verb)s::text is null or a.verb = %(verb)s)
    order by a.at desc, a.id desc limit %(limit)s
"""
_VERBS: Final = "select distinct a.verb from peers.action a order by a.verb"


def register(commands: Commands) -> None:
    """Declare `actions`."""
    actions = add_command(
        commands,
        "actions",
        _actions,
        "list what operators did: who, what, to how many tasks and why",
        example="peers actions --since 24h --verb retry_dead",
        reads=True,
    )
    actions.add_argument(
        "--since", type=duration, metavar="DURATION", help="only the last, such as 24h"
    )
    actions.add_argument(
        "--verb", type=text, metavar="VERB", help="only this verb, such as retry_dead"
    )
    add_limit(actions, _LISTED)


def _actions(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = rows(connection, _ACTIONS, since=args.since, verb=args.verb, limit=args.limit)
        verbs = [] if found else rows(connection, _VERBS)
    if args.json:
        output.document({"actions": found})
        return 0
    if not found:
        known = [row["verb"] for row in verbs]
        is_unknown = args.verb is not None and args.verb not in known
        if known and is_unknown:
            output.say(f'no action has the verb "{args.verb}"; the verbs are: {", ".join(known)}')
        else:
            output.say("no actions")
        return 0
    output.table(
        ("AT (UTC)", "WHO", "VERB", "TARGET", "TASKS", "CHILDREN", "REASON"),
        [
            (
                f"{each['at']:{output.TIME}}", _who(each), each["verb"], _target(each),
                _number(each["tasks"]), _number(each["children"]), each["reason"],
            )
            for each in found
        ],
        whole=("AT (UTC)", "VERB"),
    )  # fmt: skip
    if len(found) == args.limit:
        output.say(f"the newest {args.limit}; --limit shows more")
    return 0


def _who(action: Row) -> str:
    client = f" ({action['client']})" if action["client"] else ""
    place = f"@{action['host']}" if action["host"] else ""
    return f"{action['role']}{place}{client}"


def _target(action: Row) -> str:
    """Return the fields of the target as words."""
    fields = action["target"].parsed()
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return value if isinstance(value, str) else " ".join(written(value).split())


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
