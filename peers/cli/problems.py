"""The problems that `peers status` and `peers top` show, each with the command to type next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from peers.cli.output import count, span
from peers.cli.parser import advice
from peers.cli.queries import is_any_alive
from peers.client.limit_records import FOREVER

if TYPE_CHECKING:
    import argparse
    from collections.abc import Container, Iterator, Mapping
    from datetime import datetime

    from peers.cli.rows import Row

    Found = Mapping[str, Any]

_SHOWN: Final = 5
_START: Final = "peers run --app …"


def problems(args: argparse.Namespace, found: Found, unread: Container[str] = ()) -> list[str]:
    """Return the problems in what was read, the worst first.

    unread: the parts that could not be read. Nothing is said of what is not known.
    """
    is_known = "peers" not in unread
    return [
        *_of_kinds(found, is_known=is_known),
        *(_of_peers(found) if is_known and "queues" not in unread else ()),
        *_of_queues(args, found),
        *_of_graphs(args, found),
        *_of_limits(args, found),
        *_of_schedules(args, found, is_known=is_known),
        *_of_dead_letters(args, found),
    ]


def by_reason(unread: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the parts that could not be read for each reason, so that it is said once."""
    parts: dict[str, list[str]] = {}
    for part, reason in unread.items():
        parts.setdefault(reason, []).append(part)
    return parts


def _of_kinds(found: Found, *, is_known: bool) -> Iterator[str]:
    able = {kind for peer in found["peers"] if peer["alive"] for kind in peer["kinds"]}
    for kind in found["unrunnable"]:
        yield _unrunnable(kind, able if is_known else None, found["time"])


def _of_peers(found: Found) -> Iterator[str]:
    expired = sum(not peer["alive"] and peer["running"] for peer in found["peers"])
    if expired:
        is_any = is_any_alive(found["peers"])
        remedy = "a live peer reclaims them soon" if is_any else f"start a peer: {_START}"
        yield f"{count(expired, 'task')} held by lost peers: {remedy}"
    waiting = sum(queue["ready"] + queue["scheduled"] for queue in found["queues"])
    if waiting and not is_any_alive(found["peers"]) and not found["unrunnable"]:
        yield f"no live peer, and {count(waiting, 'task')} waiting: {_START}"


def _unrunnable(kind: Row, able: set[str] | None, now: datetime | None) -> str:
    missing = ""
    if able is not None:
        missing = (
            " (the live peers with a handler for it do not serve this queue)"
            if kind["kind"] in able
            else " (no live peer has a handler for it)"
        )
    waiting = "" if now is None else f" for {span(now - kind['oldest_ready_at'])}"
    return (
        f'no live peer runs kind "{kind["kind"]}" in queue "{kind["queue"]}"{missing}; '
        f"{count(kind['tasks'], 'task')} ready{waiting}: {_START} --queues …"
    )


def _of_queues(args: argparse.Namespace, found: Found) -> Iterator[str]:
    for queue in found["queues"]:
        if queue["paused"]:
            remedy = advice(args, f"resume {shlex.quote(queue['queue'])}")
            yield f'queue "{queue["queue"]}" is paused: {remedy}'


def _of_graphs(args: argparse.Namespace, found: Found) -> Iterator[str]:
    graphs = found["paused_graphs"]
    for graph in graphs[:_SHOWN]:
        remedy = advice(args, f"graph resume {graph['graph_id']}")
        yield f'graph {graph["graph_id"]} "{graph["name"]}" is paused: {remedy}'
    if len(graphs) > _SHOWN:
        more = count(len(graphs) - _SHOWN, "more graph")
        yield f"{more} paused: {advice(args, 'graph list --paused')}"


def _of_limits(args: argparse.Namespace, found: Found) -> Iterator[str]:
    for limit in found["limits"]:
        if limit.shut_until == FOREVER:
            remedy = advice(args, f"limit open {shlex.quote(limit.name)}")
            yield f'limit "{limit.name}" is shut: {remedy}'


def _of_schedules(args: argparse.Namespace, found: Found, *, is_known: bool) -> Iterator[str]:
    alerts, schedules = found["alerts"], found["schedules"]
    for alert in alerts[:_SHOWN]:
        remedy = advice(args, f"schedule explain {shlex.quote(alert['subject'])}")
        yield f"{alert['message'].rstrip('.')}: {remedy}"
    if len(alerts) > _SHOWN:
        yield f"{count(len(alerts) - _SHOWN, 'more alert')} in peers.alert"
    if schedules["failing"]:
        failing = count(schedules["failing"], "schedule")
        yield f"{failing} could not be fired: {advice(args, 'schedule list')}"
    if schedules["active"] and is_known and not is_any_alive(found["peers"]):
        active = count(schedules["active"], "schedule")
        yield f"no live peer, so that {active} cannot fire: {_START}"


def _of_dead_letters(args: argparse.Namespace, found: Found) -> Iterator[str]:
    dead = sum(queue["dead"] or 0 for queue in found["queues"])
    if dead:
        by_cause = advice(args, "dead list --by-cause")
        yield f"{count(dead, 'dead letter')}: {by_cause}"
