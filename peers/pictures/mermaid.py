"""Write a picture for Mermaid, which GitHub, GitLab and many wikis draw."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from peers.pictures.colours import COLOURS
from peers.pictures.picture import Node, Picture, clean
from peers.pictures.texts import shortened

MAX_EDGES: Final = 500
"""What Mermaid draws unless the site has raised its limit."""

_NAMED: Final = {'"': "quot", "&": "amp", "<": "lt", ">": "gt"}
_SPECIAL: Final = re.compile(
    r"""["#&<>`*\\%{}|~$]            # strings, entities, HTML, code, directives, formulas
    |(?<!\w)_|_(?!\w)               # emphasis
    |^(?:\d+[.)]|[-+])(?=\s)        # a list""",
    re.VERBOSE,
)
_ARROWS: Final = {"hold": "-->", "cancel": "-->|cancel|", "run": "-.->|run|"}
_SHAPES: Final = {
    "dead": ("{{", "}}"),
    "held": ("[/", "/]"),
    "blocked": ("[/", "/]"),
    "running": ("([", "])"),
    "cancelled": ("[\\", "\\]"),
}


def lines(picture: Picture) -> Iterator[str]:
    """Yield the lines of a flowchart. States have colours, shapes and words."""
    yield "flowchart LR"
    yield f"  %% {_comment(picture.heading)}"
    for number, node in enumerate(picture.nodes):
        yield f"  n{number}{_label(node)}:::{node.state}"
    for link in picture.links:
        yield f"  n{link.parent} {_ARROWS[link.policy]} n{link.child}"
    for state, colour in COLOURS.items():
        if any(node.state == state for node in picture.nodes):
            width = 4 if state == "dead" else 2
            yield (
                f"  classDef {state} fill:{colour.fill},stroke:{colour.stroke},color:#111827,"
                f"stroke-width:{width}px"
            )


def _label(node: Node) -> str:
    left, right = _SHAPES.get(node.state, ("[", "]"))
    parts = (shortened(node.name), node.states_in_words, node.note)
    return f'{left}"{"<br/>".join(map(escaped, parts))}"{right}'


def escaped(text: str) -> str:
    """Return a text for a label in quotes, with everything escaped that Mermaid would interpret."""
    return _SPECIAL.sub(lambda found: "".join(map(_entity, found[0])), clean(text))


def _entity(character: str) -> str:
    if character == "$":  # two in a row begin a formula, even if they are escaped
        return "#36;#8203;"
    return f"#{_NAMED.get(character, ord(character))};"


def _comment(text: str) -> str:
    """Return a text for a comment, which must not have a directive."""
    return clean(text).translate({ord(each): " " for each in "{}%"})
