"""Print a picture in a terminal: an indented tree in which children follow their parents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from peers.pictures.colours import COLOURS
from peers.pictures.picture import Link, Node, Picture, clean


def lines(picture: Picture, *, colour: bool = False, ascii_only: bool = False) -> Iterator[str]:
    """Yield the lines. A node with several parents is printed below the last of them.

    The other parents mention it. An edge says its policy unless that is hold.
    """
    children: defaultdict[int, list[Link]] = defaultdict(list)
    waits: defaultdict[int, set[int]] = defaultdict(set)
    for link in picture.links:
        children[link.parent].append(link)
        waits[link.child].add(link.parent)
    branch, last, bar = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
    printed: set[int] = set()
    numbers = {node: f"[{node + 1}] " for node, parents in waits.items() if len(parents) > 1}
    yield clean(picture.heading)
    stack: list[tuple[int, str, str, str]] = [
        (number, "", "", "") for number in reversed(range(len(picture.nodes))) if not waits[number]
    ]
    while stack:
        number, lead, indent, policy = stack.pop()
        node = picture.nodes[number]
        label = _label(node, numbers.get(number, ""), policy)
        unprinted = waits[number] - printed
        if number in printed or unprinted:
            yield f"{lead}{label}: see {'above' if number in printed else 'below'}"
            continue
        printed.add(number)
        yield lead + _line(node, label, colour=colour)
        below = _policies(children[number])
        for place, (child, policies) in enumerate(reversed(below)):  # the stack turns them round
            lead, deeper = (last, "   ") if place == 0 else (branch, bar)
            stack.append((child, indent + lead, indent + deeper, policies))


def _policies(links: list[Link]) -> list[tuple[int, str]]:
    """Return each child with the policies of its edges; none is shown for hold alone."""
    policies: defaultdict[int, list[str]] = defaultdict(list)
    for link in links:
        policies[link.child].append(link.policy)
    return [
        (child, "" if names == ["hold"] else f"({', '.join(names)}) ")
        for child, names in policies.items()
    ]


def _label(node: Node, number: str, policy: str) -> str:
    mark = "> " if node.is_focus else ""
    return f"{mark}{policy}{number}{clean(node.name)}"


def _line(node: Node, label: str, *, colour: bool) -> str:
    states = node.states_in_words
    if colour:
        states = f"\x1b[{COLOURS[node.state].ansi}m{states}\x1b[0m"
    return f"{label}  {states}  ({node.note})"
