"""Write a picture for Graphviz: `peers graph 42 --dot | dot -Tpng -o graph.png`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peers.pictures.colours import COLOURS
from peers.pictures.picture import POLICIES, Link, Node, Picture, clean
from peers.pictures.texts import shortened

_STYLES: Final = {
    "dead": "filled,bold",
    "held": "filled,dashed",
    "blocked": "filled,dashed",
    "scheduled": "filled,dotted",
    "running": "rounded,filled,bold",
}
_EDGES: Final = {"hold": "solid", "cancel": "dashed", "run": "dotted"}


def lines(picture: Picture) -> Iterator[str]:
    """Yield the lines of a digraph. States have colours, styles and words."""
    yield "digraph peers {"
    yield f'  graph [rankdir=LR, bgcolor="transparent", tooltip="{escaped(picture.heading)}"];'
    yield '  node [shape=box, fontname="Helvetica", fontsize=11, fontcolor="#111827"];'
    yield '  edge [color="#6b7280", fontname="Helvetica", fontsize=9, fontcolor="#6b7280"];'
    for number, node in enumerate(picture.nodes):
        yield f"  n{number} [{_node(node)}];"
    for link in picture.links:
        yield f"  n{link.parent} -> n{link.child} [{_link(link)}];"
    yield "}"


def _node(node: Node) -> str:
    colour = COLOURS[node.state]
    label = r"\n".join(map(escaped, (shortened(node.name), node.states_in_words, node.note)))
    shape = ", peripheries=2" if node.state == "dead" else ""
    return (
        f'label="{label}", tooltip="{escaped(node.name)}", style="'
        f'{_STYLES.get(node.state, "rounded,filled")}", fillcolor="{colour.fill}", '
        f'color="{colour.stroke}"{shape}'
    )


def _link(link: Link) -> str:
    label = "" if link.policy == "hold" else f', label="{link.policy}"'
    return f'style={_EDGES[link.policy]}, tooltip="{POLICIES[link.policy]}"{label}'


def escaped(text: str) -> str:
    r"""Return a text for a string in quotes: `\N` and `&amp;` have a meaning there."""
    return clean(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
