"""`peers graph draw`: draw a graph, or a task with its ancestors and descendants."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output
from peers.cli.argument_types import positive, task_id
from peers.cli.database import connected
from peers.cli.parser import add_command, advice
from peers.errors import GraphNotFound, TaskNotFound
from peers.pictures import dot, mermaid, read, svg, tree
from peers.pictures.fold import MAX_NODES, fold
from peers.pictures.picture import TIMES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from peers.cli.parser import Commands
    from peers.database.connection import Connection
    from peers.pictures.picture import Picture

_FORMS: Final = {"mermaid": mermaid.lines, "dot": dot.lines, "svg": svg.lines}
_OPTIONS: Final = ("--task", "--mermaid", "--dot", "--svg", "--max", "--all")


def with_verb(words: list[str]) -> list[str]:
    """Return the words of `peers graph 42 --svg` as those of `peers graph draw 42 --svg`."""
    if len(words) > 1 and (words[1].isdecimal() or words[1].split("=")[0] in _OPTIONS):
        return [words[0], "draw", *words[1:]]
    return words


def register(
    group: Commands,
    graph_argument: Callable[..., None],
    find: Callable[[Connection, argparse.Namespace], int],
) -> None:
    """Declare `draw`. `find` returns the id of the graph that was typed."""
    draw = add_command(
        group,
        "draw",
        lambda args: _draw(args, find),
        "draw a graph, or a task with its ancestors and descendants (`peers graph 42` is short)",
        reads=True,
        example=[
            "peers graph 42",
            "peers graph 42 --svg > graph.svg",
            "peers graph --task 4711 --mermaid",
        ],
    )
    graph_argument(draw, nargs="?")
    draw.add_argument(
        "--task",
        type=task_id,
        metavar="ID",
        help="draw this task, all that it waits for, and all that wait for it",
    )
    forms = draw.add_mutually_exclusive_group()
    forms.add_argument("--mermaid", action="store_true", help="print a flowchart for Mermaid")
    forms.add_argument("--dot", action="store_true", help="print a digraph for Graphviz")
    forms.add_argument("--svg", action="store_true", help="print an SVG picture")
    size = draw.add_mutually_exclusive_group()
    size.add_argument(
        "--max",
        type=positive,
        default=MAX_NODES,
        metavar="N",
        help=f"fold alike tasks until there are at most N nodes (default: {MAX_NODES})",
    )
    size.add_argument("--all", action="store_true", help="fold nothing: one node for each task")


def _draw(args: argparse.Namespace, find: Callable[[Connection, argparse.Namespace], int]) -> int:
    if (args.graph is None) == (args.task is None):
        args.parser.error("give a GRAPH, or --task ID")
    with connected(args) as connection:
        picture = _picture(connection, args, find)
    if args.json:
        output.document(_document(picture))
        return 0
    form = next((form for form in _FORMS if getattr(args, form)), None)
    for line in _tree(picture) if form is None else _FORMS[form](picture):
        print(line)
    if form == "mermaid" and len(picture.links) > mermaid.MAX_EDGES:
        output.say(
            f"hint: Mermaid draws at most {mermaid.MAX_EDGES} edges, and this has "
            f"{len(picture.links):,}: a smaller --max folds more."
        )
    if form is None:
        _say_hints(picture, args)
    return 0


def _picture(
    connection: Connection,
    args: argparse.Namespace,
    find: Callable[[Connection, argparse.Namespace], int],
) -> Picture:
    most = None if args.all else args.max
    if args.task is not None:
        found = read.around(connection, args.task)
        if not found.tasks:
            raise TaskNotFound(
                f"there is no task {args.task}", "It never existed, or it was pruned."
            )
        return fold(found, f"around task {args.task}", most, args.task)
    graph = find(connection, args)
    name = read.name_of_graph(connection, graph)
    if name is None:
        raise GraphNotFound(
            f"there is no graph {graph}",
            f"`{advice(args, 'graph list')}` lists them. "
            f"If {graph} is a task: `{advice(args, f'graph --task {graph}')}`.",
        )
    return fold(read.of_graph(connection, graph), f"graph {graph}, {name}", most)


def _tree(picture: Picture) -> Iterator[str]:
    try:
        f"├└│{TIMES}…".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return (
            line.replace(TIMES, "x").replace("…", "...")
            for line in tree.lines(picture, ascii_only=True)
        )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return tree.lines(picture, colour=colour)


def _say_hints(picture: Picture, args: argparse.Namespace) -> None:
    dead = [number for node in picture.nodes for number in node.dead_ids]
    if dead:
        output.say(f"hint: `{advice(args, f'dead show {dead[0]}')}` says why it is dead.")
    if picture.tasks > len(picture.nodes):
        output.say("hint: tasks that are alike are folded; --all shows each, --max N fewer nodes.")


def _document(picture: Picture) -> dict[str, Any]:
    return {
        "title": picture.title,
        "tasks": picture.tasks,
        "states": dict(picture.states),
        "nodes": [
            {
                "node": number,
                "kinds": dict(node.kinds),
                "tasks": node.tasks,
                "states": dict(node.states),
                "task_ids": node.ids[:100],
                "dead_task_ids": node.dead_ids[:100],
            }
            for number, node in enumerate(picture.nodes)
        ],
        "edges": [
            {
                "parent": link.parent,
                "child": link.child,
                "on_parent_failure": link.policy,
                "edges": link.edges,
            }
            for link in picture.links
        ],
    }
