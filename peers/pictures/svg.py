"""Draw a picture as SVG: readable on light and dark paper, in colour and without."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple

from peers.pictures.colours import COLOURS
from peers.pictures.layout import Point, Size, lay_out
from peers.pictures.picture import POLICIES, STATES, Link, Node, Picture, clean
from peers.pictures.texts import cells, shortened, wrapped

_MARGIN: Final = 24.0
_PADDING: Final = 12.0
_BAR: Final = 6.0
"""The height of the bar that shows the shares of the states."""
_FONT: Final = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_CELL: Final = 0.61
"""The width of a letter of these fonts, of their size, rounded up."""
_HEADING: Final = 15
_HEADING_CELLS: Final = 160
_NAME: Final = 13
_SMALL: Final = 11
_LINE: Final = 1.4
_LEGEND_HEIGHT: Final = 18.0
_LEGEND_GAP: Final = 22.0
_DASHES: Final = {"hold": "", "cancel": "7 4", "run": "1.5 4"}
_BOX_DASHES: Final = {"held": "5 3", "blocked": "5 3", "scheduled": "2 3"}


class _Text(NamedTuple):
    line: str
    size: int


class _Box(NamedTuple):
    """A node with its texts."""

    node: Node
    texts: list[_Text]

    @property
    def size(self) -> Size:
        """Return how much room it takes."""
        width = max(cells(line) * _CELL * size for line, size in self.texts)
        height = sum(size * _LINE for _, size in self.texts)
        return Size(width + 2 * _PADDING, height + _PADDING + self.bar)

    @property
    def bar(self) -> float:
        """Return the height of its bar."""
        return _BAR + 4 if len(self.node.states) > 1 else 0.0


def lines(picture: Picture) -> Iterator[str]:
    """Yield the lines of an SVG document."""
    boxes = [_box(node) for node in picture.nodes]
    layout = lay_out(
        [box.size for box in boxes], [(link.parent, link.child) for link in picture.links]
    )
    heading = shortened(picture.heading, _HEADING_CELLS)
    legend = list(_legend(picture))
    top = _MARGIN + _HEADING * _LINE + _LEGEND_HEIGHT + _LEGEND_GAP
    width = 2 * _MARGIN + max(
        layout.size.width,
        cells(heading) * _CELL * _HEADING,
        sum(_legend_width(text) for _, text in legend),
    )
    height = top + layout.size.height + _MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
    )
    yield f"<title>{_xml(picture.heading)}</title>"
    yield f"<style>{_style()}</style>"
    yield (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    yield _text(_MARGIN, _MARGIN + _HEADING, heading, _HEADING, "heading")
    yield from _draw_legend(legend, _MARGIN + _HEADING * _LINE + 8)
    yield f'<g transform="translate({_MARGIN:.0f} {top:.1f})">'
    for link, route in zip(picture.links, layout.routes, strict=True):
        yield _draw_link(picture, link, route)
    for box, corner in zip(boxes, layout.corners, strict=True):
        yield from _draw_box(box, corner)
    yield "</g></svg>"


def _box(node: Node) -> _Box:
    small = [*wrapped(node.states_in_words), *wrapped(node.note)]
    return _Box(
        node, [_Text(shortened(node.name), _NAME), *(_Text(each, _SMALL) for each in small)]
    )


def _draw_box(box: _Box, corner: Point) -> Iterator[str]:
    node, size = box.node, box.size
    state = node.state
    yield f'<g class="{state}" transform="translate({corner.x:.1f} {corner.y:.1f})">'
    yield f"<title>{_xml(f'{node.name}: {node.states_in_words} ({node.note})')}</title>"
    if node.is_focus:
        yield (
            f'<rect class="focus" x="-5" y="-5" width="{size.width + 10:.1f}" '
            f'height="{size.height + 10:.1f}" rx="9"/>'
        )
    yield f'<rect width="{size.width:.1f}" height="{size.height:.1f}" rx="5"{_border(state)}/>'
    if state == "dead":  # a second border, for black and white
        yield (
            f'<rect class="inner" x="4" y="4" width="{size.width - 8:.1f}" '
            f'height="{size.height - 8:.1f}" rx="3"/>'
        )
    y = _PADDING / 2
    for line, font in box.texts:
        yield _text(_PADDING, y + font * 1.1, line, font, "name" if font == _NAME else "")
        y += font * _LINE
    if box.bar:
        yield from _draw_bar(node, y + 2, size.width - 2 * _PADDING)
    yield "</g>"


def _border(state: str) -> str:
    """Return the attributes of a border. It shows the state without colours, too."""
    width = 3 if state in ("dead", "running") else 1.5
    return f' stroke-width="{width}"{_dash(_BOX_DASHES.get(state, ""))}'


def _dash(pattern: str) -> str:
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def _draw_bar(node: Node, y: float, width: float) -> Iterator[str]:
    """Draw the shares of the states; none is so small that it cannot be seen."""
    x, least = _PADDING, 3.0
    present = [state for state in reversed(STATES) if node.states[state]]
    room = width - least * len(present)
    for state in present:
        part = least + room * node.states[state] / node.tasks
        yield (
            f'<rect class="share {state}" x="{x:.1f}" y="{y:.1f}" width="{part:.1f}" '
            f'height="{_BAR:.0f}"><title>{node.states[state]:,} {state}</title></rect>'
        )
        x += part


def _draw_link(picture: Picture, link: Link, route: list[Point]) -> str:
    start = route[0]
    path = [f"M{start.x:.1f} {start.y:.1f}"]
    for number, (first, second) in enumerate(pairwise(route)):
        if number % 2:  # across a layer
            path.append(f"L{second.x:.1f} {second.y:.1f}")
        else:
            middle = (first.x + second.x) / 2
            path.append(
                f"C{middle:.1f} {first.y:.1f} {middle:.1f} {second.y:.1f} "
                f"{second.x:.1f} {second.y:.1f}"
            )
    names = f"{picture.nodes[link.parent].name} → {picture.nodes[link.child].name}"
    many = f"{link.edges:,} edges, " if link.edges > 1 else ""
    title = f"{names}: {many}on_parent_failure {link.policy}: {POLICIES[link.policy]}"
    return (
        f'<path class="edge" d="{"".join(path)}" marker-end="url(#arrow)"'
        f"{_dash(_DASHES[link.policy])}>"
        f"<title>{_xml(title)}</title></path>"
    )


# ------------------------------------------------------------------------------- legend and style


def _legend(picture: Picture) -> Iterator[tuple[str, str]]:
    """Yield what the picture has: states, and policies of edges, each with its text."""
    present = picture.states
    yield from ((state, state) for state in STATES if present[state])
    policies = {link.policy for link in picture.links}
    yield from (
        (policy, f"{policy}: {sentence}")
        for policy, sentence in POLICIES.items()
        if policy in policies
    )


def _legend_width(text: str) -> float:
    return 34 + cells(text) * _CELL * _SMALL + _LEGEND_GAP


def _draw_legend(legend: list[tuple[str, str]], y: float) -> Iterator[str]:
    x = _MARGIN
    for what, text in legend:
        if what in POLICIES:
            yield (
                f'<path class="edge" d="M{x:.1f} {y + 7:.1f}h26" marker-end="url(#arrow)"'
                f"{_dash(_DASHES[what])}/>"
            )
        else:
            yield (
                f'<g class="{what}"><rect x="{x + 4:.1f}" y="{y:.1f}" width="20" height="14" '
                f'rx="3"{_border(what)}/></g>'
            )
        yield _text(x + 32, y + 11, text, _SMALL, "heading")
        x += _legend_width(text)


def _style() -> str:
    rules = [
        f"text{{font-family:{_FONT};fill:#111827;white-space:pre}}",
        ".name{font-weight:bold}.heading{fill:#6e7681!important}",  # readable on both backgrounds
        ".edge{fill:none;stroke:#6e7681;stroke-width:1.5}.arrow{fill:#6e7681}",
        ".focus{fill:none;stroke:#6b7280;stroke-width:2}.inner{fill:none;stroke-width:1}",
    ]
    dark = ["text{fill:#f9fafb}"]
    for state, colour in COLOURS.items():
        box, share = f".{state}>rect:not(.share)", f"rect.share.{state}"
        rules += [
            f"{box}{{fill:{colour.fill};stroke:{colour.stroke}}}",
            f"{share}{{fill:{colour.stroke}}}",
        ]
        dark += [
            f"{box}{{fill:{colour.dark_fill};stroke:{colour.dark_stroke}}}",
            f"{share}{{fill:{colour.dark_stroke}}}",
        ]
    outlines = "g>rect.focus,g>rect.inner{fill:none!important}"
    return f"{''.join(rules)}@media (prefers-color-scheme:dark){{{''.join(dark)}}}{outlines}"


def _text(x: float, y: float, line: str, size: int, kind: str) -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{name}>{_xml(line)}</text>'


def _xml(text: str) -> str:
    return escape(clean(text))
