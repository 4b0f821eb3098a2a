"""Arrange what `peers top` shows in the lines of a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peers.cli.output import count, one_line, readable, span, table_lines
from peers.cli.overview_tables import Table, causes_table, peers_table, queues_table, running_table
from peers.cli.problems import by_reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

PLAIN: Final = "none"
TITLE: Final = "bold"
HEADING: Final = "reverse"
PROBLEM: Final = "bold red"
NOTE: Final = "yellow"

_PROBLEM_LINES_MIN: Final = 3
_PROBLEM_SHARE: Final = 4
"""The problems take at most this part of the screen, unless that is less than the lines above."""
_PART_NAMES: Final = {
    "oldest_ready": "oldest ready tasks",
    "running": "running tasks",
    "dead_causes": "dead letters",
    "unrunnable": "kinds that no peer runs",
    "paused_graphs": "paused graphs",
    "last_hour": "throughput of the last hour",
}
_SHOWN_IN_PLACE: Final = frozenset({"queues", "peers", "running", "dead_causes"})
"""Parts that say in their own place that they could not be read."""


class Line(NamedTuple):
    """A line of the screen with its style."""

    text: str
    style: str = PLAIN


class View(NamedTuple):
    """What the screen shows."""

    database: str
    found: Mapping[str, Any]
    """The parts, with the rows of `overview.queue_rows` as its queues."""
    unread: Mapping[str, str]
    """Why parts could not be read."""
    old: Mapping[str, timedelta]
    """How old parts are that were not read lately."""
    problems: Sequence[str]
    trouble: str | None
    """Why the database cannot be reached."""
    keys: str = ""
    """What can be typed."""


class _Block(NamedTuple):
    heading: str
    rows: list[Line]


def lines(view: View, columns: int, height: int | None = None) -> list[Line]:
    """Return the lines; at most `height`, if it is given. No line has more than `columns`."""
    if view.found["time"] is None:  # nothing was read yet
        waiting = view.trouble or view.unread.get("time") or "reading …"
        return [Line(f"peers top  {view.database}", TITLE), Line(waiting, NOTE)]
    top = [*_header(view, columns), *_notes(view, columns)]
    problems = _problem_lines(view.problems, columns, height)
    blocks = _blocks(view, columns)
    gaps = len(blocks) if height is None else 0
    if height is not None:
        room = height - len(top) - len(problems) - len(blocks)
        blocks = _fitted(blocks, room)
        needed = sum(len(block.rows) for block in blocks)
        gaps = max(0, min(len(blocks), room - needed))
    shown = [*top, *problems]
    for number, block in enumerate(blocks):
        if number >= len(blocks) - gaps:
            shown.append(Line(""))
        if block.heading:
            shown.append(Line(block.heading.ljust(columns if height else 0), HEADING))
        shown += block.rows
    return shown[:height]


def _header(view: View, columns: int) -> list[Line]:
    peers = view.found["peers"]
    alive = sum(peer["alive"] for peer in peers)
    lost = f", {len(peers) - alive} lost" if len(peers) > alive else ""
    time = f"{view.found['time']:%H:%M:%S} UTC"
    known = "peers unknown" if "peers" in view.unread else f"{count(alive, 'peer')} alive{lost}"
    left = f"peers top  {one_line(view.database)}  {time}  {known}"
    room = columns - len(left)
    right = view.keys.rjust(room) if 0 < len(view.keys) < room else ""
    found = [Line(left + right, TITLE)]
    if view.trouble is not None:
        text = f"! no database: {view.trouble} Trying again; below is how it was at {time}."
        found += [Line(line, PROBLEM) for line in textwrap.wrap(readable(text), columns)[:3]]
    return found


def _notes(view: View, columns: int) -> list[Line]:
    elsewhere = {
        _PART_NAMES.get(part, part): reason
        for part, reason in view.unread.items()
        if part not in _SHOWN_IN_PLACE
    }
    notes = [f"… {', '.join(parts)}: {reason}" for reason, parts in by_reason(elsewhere).items()]
    if view.old:
        ages = (f"{_PART_NAMES.get(part, part)} ({span(age)})" for part, age in view.old.items())
        notes.append(f"… read less often, because they take long: {', '.join(ages)}")
    return [Line(one_line(note)[:columns], NOTE) for note in notes]


def _problem_lines(problems: Sequence[str], columns: int, height: int | None) -> list[Line]:
    wrapped = [
        textwrap.wrap(
            f"! {one_line(problem)}", columns, subsequent_indent="  ", break_on_hyphens=False
        )
        for problem in problems
    ]
    most = sum(map(len, wrapped))
    if height is not None:
        most = min(most, max(_PROBLEM_LINES_MIN, height // _PROBLEM_SHARE))
    shown: list[Line] = []
    for number, part in enumerate(wrapped):
        rest = len(wrapped) - number
        if len(shown) + len(part) + (rest > 1) > most:
            shown.append(Line(f"! … and {count(rest, 'more problem')}: peers status", PROBLEM))
            break
        shown += [Line(text, PROBLEM) for text in part]
    return shown


def _blocks(view: View, columns: int) -> list[_Block]:
    found, unread = view.found, view.unread
    return [
        _block("queues", queues_table(found["queues"], short=True), "no tasks", unread, columns),
        _block("peers", peers_table(found["peers"]), "no peers", unread, columns),
        _block("running", running_table(found["running"]), "nothing runs", unread, columns),
        _block(
            "dead_causes", causes_table(found["dead_causes"]), "no dead letters", unread, columns
        ),
    ]


def _block(
    part: str, table: Table, nothing: str, unread: Mapping[str, str], columns: int
) -> _Block:
    name = _PART_NAMES.get(part, part)
    if part in unread:
        return _Block("", [Line(one_line(f"{name} … {unread[part]}")[:columns], NOTE)])
    if not table.rows:
        return _Block("", [Line(nothing, NOTE if part == "peers" else PLAIN)])
    heading, *rows = table_lines(table.headings, table.rows, columns, whole=table.whole)
    return _Block(heading, [Line(row) for row in rows])


def _fitted(blocks: Sequence[_Block], room: int) -> list[_Block]:
    """Return the blocks with so many rows that they fit. The longest is shortened first."""
    sizes = [len(block.rows) for block in blocks]
    while sum(sizes) > room and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    return [
        block if size == len(block.rows) else _Block(block.heading, _cut(block.rows, size))
        for block, size in zip(blocks, sizes, strict=True)
    ]


def _cut(rows: Sequence[Line], size: int) -> list[Line]:
    return [*rows[: size - 1], Line(f"… and {len(rows) - size + 1:,} more", NOTE)]
