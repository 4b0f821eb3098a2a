"""`peers status`: show queues, peers and problems, and what to type next."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, overview, queries
from peers.cli.database import connected
from peers.cli.limit_table import document_of, print_limits
from peers.cli.overview_tables import Table, causes_table, peers_table, queues_table, running_table
from peers.cli.parser import add_command, advice, version
from peers.cli.problems import problems
from peers.errors import NotPermitted

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_RUNNING_PRINTED: Final = 50
_SLOWEST: Final = 5
_CAUSES: Final = 5
_PROBLEM: Final = 1
_TIMEOUT: Final = 10.0
"""Seconds for each part. A script that watches must not hang with a slow database."""


def register(commands: Commands) -> None:
    """Declare `status`."""
    status = add_command(
        commands,
        "status",
        _status,
        "show queues, peers and problems (exit code 1 if there is a problem)",
        example=("peers status", "peers status --running", "peers status --json | jq .problems"),
        reads=True,
        epilog="DONE/S and FAIL/S are averages over the last 5 minutes, COMPLETED counts the "
        "last hour; the peers report both about every 10 seconds. ~ marks an estimate. A lost peer "
        "is listed for a day. A line that begins with ! is a problem.",
    )
    status.add_argument(
        "--running",
        action="store_true",
        help=f"list all running tasks, longest first (without it: the first {_SLOWEST})",
    )


def _status(args: argparse.Namespace) -> int:
    found, unread = _look(args)
    sentences = problems(args, found)
    sentences += [f"{part} could not be read: {problem}" for part, problem in unread.items()]
    if args.json:
        output.document({**_document(found), "unread": unread, "problems": sentences})
    else:
        _print(args, found, unread)
        if sentences:
            print()
        for sentence in sentences:
            output.paragraph(f"! {output.readable(sentence)}")
    return _PROBLEM if sentences else 0


def _look(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what was read, and why parts could not be read.

    Raises NotPermitted for a role that may not read queues: it may read nothing else either.
    """
    limit = None if args.running else _SLOWEST
    parts: dict[str, overview.Part] = {
        **overview.PARTS,
        "running": partial(queries.running, limit=limit),
    }
    found: dict[str, Any] = dict(overview.NOTHING)
    unread: dict[str, str] = {}
    with connected(args) as connection:
        for part, function in parts.items():
            reading = overview.read(connection, function, _TIMEOUT)
            if part == "queues" and reading.is_denied:
                raise NotPermitted(
                    f'the role "{connection.info.user}" may not read the tables of Peers',
                    "Connect as another role, or grant this one peers_reader or peers_operator.",
                )
            if reading.problem is None:
                found[part] = reading.found
            else:
                unread[part] = reading.problem
        found["database"] = connection.info.dbname
        found["server_version"] = connection.info.parameter_status("server_version")
    found["queues"] = overview.queue_rows(found, unread)
    return found, unread


def _document(found: dict[str, Any]) -> dict[str, Any]:
    any_peer = any(peer["alive"] for peer in found["peers"])
    return {
        **overview.without_throughput(found),
        "version": version(),
        "limits": [document_of(limit, any_peer=any_peer) for limit in found["limits"]],
        "dead": sum(queue["dead"] for queue in found["queues"]),
    }


def _print(args: argparse.Namespace, found: dict[str, Any], unread: dict[str, str]) -> None:
    if "queues" not in unread:
        _print_table(
            queues_table(found["queues"]),
            "no tasks wait or run, and none was completed within the last hour",
        )
        print()
    if "peers" not in unread:
        _print_table(peers_table(found["peers"]), "no peers")
    if found["limits"]:
        print()
        any_peer = any(peer["alive"] for peer in found["peers"])
        print_limits(found["limits"], found["time"], any_peer=any_peer)
    if args.running or found["running"]:
        print()
        _print_table(running_table(found["running"][:_RUNNING_PRINTED]), "nothing runs")
        if len(found["running"]) > _RUNNING_PRINTED:
            more = len(found["running"]) - _RUNNING_PRINTED
            print(f"… and {more:,} more: --json shows all")
    if found["dead_causes"]:
        print()
        _print_table(causes_table(found["dead_causes"][:_CAUSES]), "")
        if len(found["dead_causes"]) > _CAUSES:
            print(
                f"… and {len(found['dead_causes']) - _CAUSES:,} more causes among the newest dead "
                f"letters: {advice(args, 'dead list --by-cause')}"
            )


def _print_table(table: Table, nothing: str) -> None:
    if table.rows:
        output.table(table.headings, table.rows, whole=table.whole)
    else:
        print(nothing)
