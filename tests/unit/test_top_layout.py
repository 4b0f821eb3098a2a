"""What `peers top` shows fits every terminal, and says what it could not read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from peers.cli.exact_json import Json
from peers.cli.overview import NOTHING, queue_rows
from peers.cli.overview_tables import peers_table, rate, rounded
from peers.cli.top_layout import HEADING, View, lines

SECOND = timedelta(seconds=1)


def found(size: int) -> dict[str, Any]:
    """Return parts with so many rows each."""
    numbers = range(size)
    parts: dict[str, Any] = {
        **NOTHING,
        "time": datetime(2026, 11, 27, 3, tzinfo=UTC),
        "queues": [
            {
                "queue": f"queue {n}", "ready": 10**n, "scheduled": n, "running": n, "blocked": n,
                "dead": n, "paused": not n, "is_estimate": n > 3,
            }
            for n in numbers
        ],
        "peers": [
            {
                "peer_id": UUID(int=n), "alive": n > 0, "host": "web1", "pid": n, "running": n,
                "last_heartbeat_ago_seconds": SECOND, "up_seconds": SECOND,
                "queues": Json('{"default": 4}'), "kinds": ["a"],
            }
            for n in numbers
        ],
        "running": [
            {
                "task_id": n, "kind": "thumbs.make" * 5, "queue": "default", "for_seconds": SECOND,
                "attempt": 1, "max_attempts": 5, "cancel_requested": False, "progress_done": None,
                "progress_total": None, "peer_id": UUID(int=n), "host": "web1",
            }
            for n in numbers
        ],
        "dead_causes": [
            {
                "tasks": n, "kind": "thumbs.make", "error_type": "OSError", "frame": None,
                "newest_ago_seconds": SECOND, "example_id": n,
            }
            for n in numbers
        ],
    }  # fmt: skip
    return parts


def view(size: int, problems: int, **options: Any) -> View:
    """Return a view of so many rows and problems."""
    parts = found(size)
    unread = options.pop("unread", {})
    return View(
        database="shop", found={**parts, "queues": queue_rows(parts, unread)}, unread=unread,
        old=options.pop("old", {}), trouble=options.pop("trouble", None), keys="q: quit",
        problems=[f"problem {n} that takes {'many words ' * 9}" for n in range(problems)],
    )  # fmt: skip


def test_the_queues_of_a_peer_come_by_name() -> None:
    """The database sorts the keys of an object by their length."""
    [peer] = found(1)["peers"]
    [row] = peers_table([{**peer, "queues": Json('{"media": 2, "default": 4}')}]).rows
    assert "default=4,media=2" in row


@pytest.mark.parametrize("size", [0, 1, 9])
@pytest.mark.parametrize("problems", [0, 1, 30])
@pytest.mark.parametrize(("columns", "height"), [(80, 24), (40, 10), (20, 5), (200, 60), (80, 1)])
def test_everything_fits(size: int, problems: int, columns: int, height: int) -> None:
    """No line is too long, and there are not too many."""
    shown = lines(view(size, problems), columns, height)
    assert len(shown) <= height
    if columns >= 80:
        assert max(len(line.text) for line in shown) <= columns


@pytest.mark.parametrize("trouble", [None, "the connection was lost " * 9])
def test_each_section_keeps_a_line_on_a_usual_terminal(trouble: str | None) -> None:
    """A long list does not push the others out; what is left out is counted."""
    shown = lines(view(99 // 9, 30, trouble=trouble, old={"queues": SECOND}), 80, 24)
    headings = [line.text.split()[0] for line in shown if line.style == HEADING]
    assert headings == ["QUEUE", "PEER", "TASK", "DEAD"]
    text = "\n".join(line.text for line in shown)
    assert "more problems: peers status" in text
    assert "… and" in text
    assert ("no database" in text) == (trouble is not None)
    assert "queues (1s)" in text


def test_a_section_that_was_not_read_says_why() -> None:
    """The others are shown."""
    why = "the database took longer than 2s"
    shown = lines(view(2, 0, unread={"peers": why, "throughput": why}), 80, 24)
    texts = [line.text for line in shown]
    assert f"peers … {why}" in texts
    assert f"… throughput: {why}" in texts
    [row] = [text for text in texts if text.startswith("queue 0")]
    assert row.split()[7:9] == ["…", "…"]


def test_before_the_first_reading_it_says_so() -> None:
    """Instead of an empty system."""
    parts = View("shop", NOTHING, {}, {}, [], None)
    assert [line.text for line in lines(parts, 80, 24)] == ["peers top  shop", "reading …"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (9_999, "9,999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_950, "100k"),
        (999_499, "999k"), (999_500, "1.0M"), (12_345_678, "12.3M"), (10**10, "10.0G"),
    ],
)  # fmt: skip
def test_large_numbers_are_rounded(number: int, text: str) -> None:
    """To at most six characters."""
    assert rounded(number) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(None, "…"), (0.0, "0"), (0.0033, "0.0033"), (0.25, "0.25"), (1.26, "1.3"), (12.6, "13"),
     (98_765.4, "98.8k")],
)  # fmt: skip
def test_rates_are_rounded(per_second: float | None, text: str) -> None:
    """A slow queue is not shown as a dead one."""
    assert rate(per_second) == text
