"""`peers status`: show queues, peers and problems, and what to type next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, queries
from peers.cli.database import connected, perform
from peers.cli.limit_table import document_of, print_limits
from peers.cli.output import count, span
from peers.cli.parser import add_command, advice, version
from peers.client import limit_operations, operations
from peers.client.limit_records import FOREVER
from peers.database import functions

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from peers.cli.parser import Commands
    from peers.database.connection import Connection

    Rows = list[dict[str, Any]]

_MOST_RUNNING: Final = 50
_SHORT_ID: Final = 8
_PAUSED_MAX: Final = 1000
_PAUSED_SHOWN: Final = 5
_ALERTS_SHOWN: Final = 5
_ATTENTION: Final = 1

_COUNTS: Final = ("ready", "scheduled", "running", "blocked", "dead")


def register(commands: Commands) -> None:
    """Declare `status`."""
    status = add_command(
        commands,
        "status",
        _status,
        "show queues, peers and problems (exit code 1 if there is a problem)",
        reads=True,
        epilog="COMPLETED counts the tasks completed within the last hour, among the newest "
        f"{queries.NEWEST_COUNTED:,} tasks. A lost peer is listed for a day. A line that begins "
        "with ! is a problem.",
    )
    status.add_argument(
        "--running", action="store_true", help="also list the running tasks, longest first"
    )


def _status(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = _look(connection, running=args.running)
    alarms = _alarms(args, found)
    code = _ATTENTION if alarms else 0
    if args.json:
        any_peer = any(peer["alive"] for peer in found["peers"])
        limits = [document_of(limit, any_peer=any_peer) for limit in found["limits"]]
        output.document({**found, "limits": limits, "alarms": alarms})
        return code
    _print_queues(found["queues"])
    print()
    _print_peers(found["peers"])
    if found["limits"]:
        print()
        any_peer = any(peer["alive"] for peer in found["peers"])
        print_limits(found["limits"], found["time"], any_peer=any_peer)
    if args.running:
        print()
        _print_running(found["running"])
    if alarms:
        print()
    for alarm in alarms:
        output.paragraph(f"! {output.readable(alarm)}")
    return code


def _look(connection: Connection, *, running: bool) -> dict[str, Any]:
    unrunnable = functions.unrunnable(connection)
    found: dict[str, Any] = {
        "time": queries.now(connection),
        "version": version(),
        "server_version": connection.info.parameter_status("server_version"),
        "database": connection.info.dbname,
        "queues": _queues(connection),
        "peers": queries.peers(connection),
        "unrunnable": [kind._asdict() for kind in unrunnable],
        "paused_graphs": _paused_graphs(connection),
        "alerts": queries.alerts(connection),
        "schedules": queries.schedule_counts(connection),
    }
    found["limits"] = perform(connection, limit_operations.find_limits())
    found["dead"] = sum(queue["dead"] for queue in found["queues"])
    if running:
        found["running"] = queries.running(connection)
    return found


def _queues(connection: Connection) -> Rows:
    """Return a row for each queue with tasks, or with tasks completed lately."""
    completed = queries.completed_last_hour(connection)
    found = queries.queues(connection)
    idle = completed.keys() - {row["queue"] for row in found}
    nothing: dict[str, Any] = dict.fromkeys((*_COUNTS, "ready_in_paused_graphs"), 0)
    nothing |= {"oldest_ready_seconds": None, "paused": False}
    found += [{"queue": queue, **nothing} for queue in idle]
    for row in found:
        row["completed_last_hour"] = completed.get(row["queue"], 0)
    return sorted(found, key=lambda row: str(row["queue"]))


def _paused_graphs(connection: Connection) -> Rows:
    """Return the paused graphs that have unfinished tasks."""
    return [
        {"graph_id": graph.id, "name": graph.name, "tasks": graph.tasks, "ready": graph.ready}
        for graph in perform(connection, operations.find_graphs(paused=True, limit=_PAUSED_MAX))
        if graph.finished_at is None and graph.tasks
    ]


def _print_queues(queues: Rows) -> None:
    if not queues:
        print("no tasks wait or run, and none was completed within the last hour")
        return
    output.table(
        ("QUEUE", "READY", "SCHEDULED", "RUNNING", "BLOCKED", "DEAD", "COMPLETED", "OLDEST", ""),
        [
            (
                queue["queue"],
                *(queue[key] for key in (*_COUNTS, "completed_last_hour")),
                span(queue["oldest_ready_seconds"]) if queue["oldest_ready_seconds"] else "",
                "paused" if queue["paused"] else "",
            )
            for queue in queues
        ],
    )


def _print_peers(peers: Rows) -> None:
    if not peers:
        print("no peers")
        return
    output.table(
        ("PEER", "STATE", "HOST", "PID", "RUNNING", "HEARTBEAT", "UP", "QUEUES", "KINDS"),
        [
            (
                str(peer["peer_id"])[:_SHORT_ID],
                "alive" if peer["alive"] else "lost",
                peer["host"],
                peer["pid"],
                peer["running"],
                f"{span(peer['last_heartbeat_ago_seconds'])} ago",
                span(peer["up_seconds"]),
                ",".join(f"{name}={slots}" for name, slots in peer["queues"].parsed().items()),
                len(peer["kinds"]),
            )
            for peer in peers
        ],
    )


def _print_running(tasks: Rows) -> None:
    if not tasks:
        print("nothing runs")
        return
    output.table(
        ("TASK", "KIND", "QUEUE", "FOR", "ATTEMPT", "PROGRESS", "PEER", "HOST"),
        [
            (
                task["task_id"],
                task["kind"],
                task["queue"],
                span(task["for_seconds"]),
                f"{task['attempt']}/{task['max_attempts']}",
                _progress(task),
                str(task["peer_id"])[:_SHORT_ID],
                task["host"],
            )
            for task in tasks[:_MOST_RUNNING]
        ],
    )
    if len(tasks) > _MOST_RUNNING:
        print(f"… and {len(tasks) - _MOST_RUNNING:,} more: --json shows all")


def _progress(task: dict[str, Any]) -> str:
    if task["cancel_requested"]:
        return "cancelling"
    done, total = task["progress_done"], task["progress_total"]
    return "" if done is None else f"{done}" if total is None else f"{done}/{total}"


def _alarms(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """Return the problems, each with what to type next."""
    able = {kind for peer in found["peers"] if peer["alive"] for kind in peer["kinds"]}
    alarms = [_unrunnable(kind, able, found["time"]) for kind in found["unrunnable"]]
    alive = any(peer["alive"] for peer in found["peers"])
    expired = sum(not peer["alive"] and peer["running"] for peer in found["peers"])
    if expired:
        remedy = (
            "any live peer will reclaim them soon" if alive else "start a peer: peers run --app …"
        )
        alarms.append(f"{count(expired, 'task')} held by lost peers: {remedy}")
    paused = [queue["queue"] for queue in found["queues"] if queue["paused"]]
    alarms += [
        f'queue "{queue}" is paused: {advice(args, f"resume {shlex.quote(queue)}")}'
        for queue in paused
    ]
    alarms += _paused(args, found["paused_graphs"])
    alarms += [
        f'limit "{limit.name}" is shut: {advice(args, f"limit open {shlex.quote(limit.name)}")}'
        for limit in found["limits"]
        if limit.shut_until == FOREVER
    ]
    waiting = sum(queue["ready"] + queue["scheduled"] for queue in found["queues"])
    if waiting and not alive and not found["unrunnable"]:
        alarms.append(f"no live peer, and {count(waiting, 'task')} waiting: peers run --app …")
    alarms += _schedules(args, found, alive=alive)
    if found["dead"]:
        alarms.append(f"{count(found['dead'], 'dead letter')}: {advice(args, 'dead list')}")
    return alarms


def _schedules(args: argparse.Namespace, found: dict[str, Any], *, alive: bool) -> list[str]:
    alarms = []
    for alert in found["alerts"][:_ALERTS_SHOWN]:
        remedy = advice(args, f"schedule explain {shlex.quote(alert['subject'])}")
        alarms.append(f"{alert['message'].rstrip('.')}: {remedy}")
    if len(found["alerts"]) > _ALERTS_SHOWN:
        alarms.append(f"{count(len(found['alerts']) - _ALERTS_SHOWN, 'more alert')} in peers.alert")
    schedules = found["schedules"]
    if schedules["failing"]:
        failing = count(schedules["failing"], "schedule")
        alarms.append(f"{failing} could not be fired: {advice(args, 'schedule list')}")
    if schedules["active"] and not alive:
        active = count(schedules["active"], "schedule")
        alarms.append(f"no live peer, so that {active} cannot fire: peers run --app …")
    return alarms


def _paused(args: argparse.Namespace, graphs: Rows) -> list[str]:
    alarms = []
    for graph in graphs[:_PAUSED_SHOWN]:
        remedy = advice(args, f"graph resume {graph['graph_id']}")
        alarms.append(f'graph {graph["graph_id"]} "{graph["name"]}" is paused: {remedy}')
    if len(graphs) > _PAUSED_SHOWN:
        more = count(len(graphs) - _PAUSED_SHOWN, "more graph")
        alarms.append(f"{more} paused: {advice(args, 'graph list --paused')}")
    return alarms


def _unrunnable(kind: dict[str, Any], able: set[str], now: datetime) -> str:
    missing = (
        "the live peers with a handler for it do not serve this queue"
        if kind["kind"] in able
        else "no live peer has a handler for it"
    )
    tasks, waiting = count(kind["tasks"], "task"), span(now - kind["oldest_ready_at"])
    return (
        f'no live peer runs kind "{kind["kind"]}" in queue "{kind["queue"]}" ({missing}); '
        f"{tasks} ready for {waiting}: peers run --app … --queues …"
    )
