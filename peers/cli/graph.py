"""`peers graph`: list, show, draw, cancel, pause, resume or retry graphs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from peers.cli import graph_draw, output, queries
from peers.cli.argument_types import graph_id, name
from peers.cli.database import connected, perform
from peers.cli.options import add_dry_run, add_limit, add_reason
from peers.cli.parser import add_command, add_group, advice
from peers.client import graph_operations
from peers.errors import GraphNotFound

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from peers.cli.parser import Command, Commands, Parser
    from peers.client.statements import Request
    from peers.database.connection import Connection

_LISTED: Final = 50
_STATES: Final = ("blocked", "scheduled", "ready", "running", "completed", "dead", "cancelled")


def register(commands: Commands) -> None:
    """Declare `graph` and its commands."""
    group = add_group(
        commands,
        "graph",
        "graphs: tasks that were submitted together",
        example=["peers graph 42", "peers graph --task 4711 --svg > around.svg"],
    )
    listing = add_command(
        group, "list", _list, "list graphs, newest first", reads=True,
        example="peers graph list --name nightly",
    )  # fmt: skip
    listing.add_argument("--name", type=name, metavar="NAME", help="only graphs of this name")
    listing.add_argument(
        "--paused", action="store_true", default=None, help="only graphs that are paused"
    )
    add_limit(listing, _LISTED)
    show = add_command(
        group, "show", _show, "show the progress of one graph", reads=True,
        example="peers graph show nightly",
    )  # fmt: skip
    _add_graph(show)
    graph_draw.register(group, _add_graph, _id)
    _register_changes(group)


def _register_changes(group: Commands) -> None:
    commands: dict[str, tuple[Command, str]] = {
        "cancel": (_cancel, "cancel all unfinished tasks of a graph, its dead letters included"),
        "pause": (_pause, "stop claiming tasks of a graph (running tasks go on)"),
        "resume": (_resume, "resume claiming tasks of a paused graph"),
        "retry": (_retry, "retry all dead letters of a graph with fresh attempts"),
    }
    for verb, (run, summary) in commands.items():
        command = add_command(group, verb, run, summary, example=f"peers graph {verb} 7")
        _add_graph(command)
        if verb in ("cancel", "retry"):
            add_dry_run(command)
        add_reason(command)


def _add_graph(command: Parser, **options: Any) -> None:
    command.add_argument(
        "graph",
        type=_id_or_name,
        metavar="GRAPH",
        help="id or name of the graph (several have this name: the newest one)",
        **options,
    )


def _id_or_name(value: str) -> int | str:
    return graph_id(value) if value.isdecimal() else name(value)


# -------------------------------------------------------------------------------------- reading


def _list(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = queries.graphs(connection, args.name, args.paused, args.limit)
    total = found[0]["total"] if found else 0
    for graph in found:
        del graph["total"]
    if args.json:
        output.document({"total": total, "graphs": found})
        return 0
    if not found:
        output.say("no graphs")
        return 0
    output.table(
        ("GRAPH", "NAME", "STATE", "TASKS", "READY", "RUNNING", "COMPLETED", "DEAD", "CREATED"),
        [
            (
                graph["graph_id"],
                graph["name"],
                _state(graph),
                *(graph[column] for column in ("tasks", "ready", "running", "completed", "dead")),
                f"{output.span(graph['created_ago_seconds'])} ago",
            )
            for graph in found
        ],
    )
    output.say_more(total, len(found))
    return 0


def _show(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        graph = queries.graph(connection, _id(connection, args))
    if args.json:
        output.document(graph)
        return 0
    _print_graph(graph)
    shown = graph["graph_id"]
    if graph["dead"]:
        listing = advice(args, f"dead list --graph {shown}")
        retry = advice(args, f"graph retry {shown}")
        output.say(f"hint: `{listing}` lists its dead letters, `{retry}` retries them.")
    if graph["paused"]:
        output.say(f"hint: `{advice(args, f'graph resume {shown}')}` resumes it.")
    return 0


def _state(graph: dict[str, Any]) -> str:
    if graph["finished_at"]:
        return "finished"
    return "paused" if graph["paused"] else "unfinished"


def _print_graph(graph: dict[str, Any]) -> None:
    print(output.one_line(f"graph {graph['graph_id']}, {graph['name']}"))
    ago = output.span(graph["created_ago_seconds"])
    counts = ", ".join(f"{graph[state]:,} {state}" for state in _STATES if graph[state])
    lines = {
        "state": _state(graph),
        "created": f"{graph['created_at']:{output.TIME} %Z} by {graph['submitter']}, {ago} ago",
        "tasks": f"{graph['tasks']:,}" + (f": {counts}" if counts else ""),
        "done": f"{graph['done_share']:.0%}",
        "paused": _time(graph["paused_at"]),
        "finished": _time(graph["finished_at"]),
        "ends": _time(graph["eta"]) and f"about {_time(graph['eta'])}, at its average rate so far",
        "key": graph["idempotency_key"],
        "metadata": graph["metadata"],
    }
    for label, value in lines.items():
        if value:
            print(f"  {label:<9}{output.readable(value)}")


def _time(time: Any) -> str:
    return f"{time:{output.TIME} %Z}" if time else ""


# ------------------------------------------------------------------------------------- changing


def _cancel(args: argparse.Namespace) -> int:
    operation = partial(graph_operations.cancel_graph, dry_run=args.dry_run)
    return _change(
        args, operation,
        "would cancel {}" if args.dry_run else "{} cancelled or asked to stop",
    )  # fmt: skip


def _pause(args: argparse.Namespace) -> int:
    return _change(args, graph_operations.pause_graph, "paused; {} ready")


def _resume(args: argparse.Namespace) -> int:
    return _change(args, graph_operations.resume_graph, "resumed; {} ready")


def _retry(args: argparse.Namespace) -> int:
    operation = partial(graph_operations.retry_graph, dry_run=args.dry_run)
    return _change(args, operation, "would retry {}" if args.dry_run else "{} retried")


def _change(args: argparse.Namespace, operation: Callable[..., Request[int]], sentence: str) -> int:
    with connected(args) as connection:
        graph = _id(connection, args)
        tasks = perform(connection, operation(graph, reason=args.reason))
    print(f"graph {graph}: {sentence.format(output.count(tasks, 'task'))}")
    return 0


def _id(connection: Connection, args: argparse.Namespace) -> int:
    """Return the id that was typed, or that of the newest graph of this name."""
    if isinstance(args.graph, int):
        return args.graph
    found = perform(connection, graph_operations.find_graphs(name=args.graph, limit=1))
    if not found:
        raise GraphNotFound(
            f'there is no graph "{args.graph}"', f"`{advice(args, 'graph list')}` lists them."
        )
    return found[0].id
