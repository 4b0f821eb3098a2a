"""`peers status`, `peers explain`: what is going on, and what to type next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from peers import kernel
from peers.cli import output
from peers.cli.database import connected, rows
from peers.cli.output import count, span
from peers.cli.parser import add_command, advice, task_id, version

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from peers.cli.parser import Commands
    from peers.db import Connection

    Rows = list[dict[str, Any]]

_MOST_RUNNING: Final = 50
_SHORT_ID: Final = 8

_NOW: Final = "select peers.now() as now"
_QUEUES: Final = """
    select queue, ready, scheduled, running, blocked, dead,
           oldest_ready as oldest_ready_seconds, paused
    from peers.queue_status order by queue"""
_PEERS: Final = """
    select peer_id, host, pid, queues, kinds, running, alive, last_heartbeat,
           peers.now() - last_heartbeat as last_heartbeat_ago_seconds, joined_at, lost_at
    from peers.peer_status order by alive desc, host, pid"""
_RUNNING: Final = """
    select task_id, kind, queue, peer_id, host, pid, attempt, max_attempts, since,
           peers.now() - since as for_seconds, lease_expires_at, times_out_at,
           progress_done, progress_total, cancel_requested
    from peers.running order by since, task_id"""
_TASK: Final = """
    select column_.key as name, column_.value
    from peers.task t
    cross join lateral jsonb_each(to_jsonb(t) - 'token' - 'created_xid') as column_
    where t.id = %(id)s"""
_FAILURES: Final = """
    select attempt, failed_at, peers.now() - failed_at as ago_seconds, host, pid, peer_id,
           error_type, error_message, traceback, exit_signal, exit_code, retry_at
    from peers.failure where task_id = %(id)s order by id"""


def register(commands: Commands) -> None:
    """Declares the commands of this file."""
    status = add_command(
        commands, "status", _status, "queues, peers, and what needs attention", reads=True
    )
    status.add_argument(
        "--running", action="store_true", help="also the tasks that run now, the longest first"
    )
    explain = add_command(
        commands, "explain", _explain, "why a task is not running, or what became of it", reads=True
    )
    explain.add_argument("id", type=task_id, metavar="ID")


# -------------------------------------------------------------------------------------- status


def _status(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = _look(connection, running=args.running)
    if args.json:
        output.document(found)
        return 0
    _print_queues(found["queues"])
    print()
    _print_peers(found["peers"])
    if args.running:
        print()
        _print_running(found["running"])
    if alarms := _alarms(args, found):
        print()
        for alarm in alarms:
            print(f"! {output.readable(alarm)}")
    return 0


def _look(connection: Connection, *, running: bool) -> dict[str, Any]:
    unrunnable = kernel.unrunnable(connection)
    found: dict[str, Any] = {
        "time": rows(connection, _NOW)[0]["now"],
        "version": version(),
        "server_version": connection.info.parameter_status("server_version"),
        "database": connection.info.dbname,
        "queues": rows(connection, _QUEUES),
        "peers": rows(connection, _PEERS),
        "unrunnable": [kind._asdict() for kind in unrunnable],
    }
    found["dead"] = sum(queue["dead"] for queue in found["queues"])
    if running:
        found["running"] = rows(connection, _RUNNING)
    return found


def _print_queues(queues: Rows) -> None:
    if not queues:
        print("no queues: nothing was submitted, and no peer has joined")
        return
    output.table(
        ("QUEUE", "READY", "SCHEDULED", "RUNNING", "BLOCKED", "DEAD", "OLDEST READY", ""),
        [
            (
                *(
                    queue[key]
                    for key in ("queue", "ready", "scheduled", "running", "blocked", "dead")
                ),
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
                span(peer["last_heartbeat"] - peer["joined_at"]),
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
    """What needs attention, each with what to type next."""
    alarms = [_unrunnable(kind, found["time"]) for kind in found["unrunnable"]]
    expired = sum(not peer["alive"] and peer["running"] for peer in found["peers"])
    if expired:
        alarms.append(
            f"{count(expired, 'task')} held by lost peers: any live peer will reclaim them soon"
        )
    paused = [queue["queue"] for queue in found["queues"] if queue["paused"]]
    alarms += [
        f'queue "{queue}" is paused: {advice(args, f"resume {shlex.quote(queue)}")}'
        for queue in paused
    ]
    waiting = sum(queue["ready"] + queue["scheduled"] for queue in found["queues"])
    if waiting and not any(peer["alive"] for peer in found["peers"]) and not found["unrunnable"]:
        alarms.append(f"no live peer, and {count(waiting, 'task')} waiting: peers run --app …")
    if found["dead"]:
        alarms.append(f"{count(found['dead'], 'dead letter')}: {advice(args, 'dead list')}")
    return alarms


def _unrunnable(kind: dict[str, Any], now: datetime) -> str:
    tasks, waiting = count(kind["tasks"], "task"), span(now - kind["oldest_ready_at"])
    return (
        f'no live peer runs kind "{kind["kind"]}" in queue "{kind["queue"]}"; '
        f"{tasks} ready for {waiting}: peers run --app …"
    )


# ------------------------------------------------------------------------------------- explain


def _explain(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        sentence = kernel.explain(connection, args.id)
        task = {row["name"]: row["value"] for row in rows(connection, _TASK, id=args.id)}
        failures = rows(connection, _FAILURES, id=args.id)
    if args.json:
        output.document({**task, "explanation": sentence, "failures": failures})
        return 0
    kind, queue = task["kind"].parsed(), task["queue"].parsed()
    print(output.one_line(f"task {args.id}, kind {kind}, queue {queue}"))
    print(output.readable(sentence))
    if failures:
        print()
        output.table(
            ("ATTEMPT", "FAILED", "HOST", "ERROR"),
            [
                (
                    failure["attempt"],
                    f"{span(failure['ago_seconds'])} ago",
                    failure["host"],
                    f"{failure['error_type']}: {failure['error_message']}",
                )
                for failure in failures
            ],
        )
    if task["state"].parsed() == "dead":
        output.say(f"hint: `{advice(args, f'dead show {args.id}')}` has the tracebacks.")
    return 0
