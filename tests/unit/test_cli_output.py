"""How results are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from peers.cli import output


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0ms"),
        (0.85, "850ms"),
        (42.9, "42s"),
        (192, "3m12s"),
        (60, "1m00s"),
        (4 * 3600 + 300, "4h05m"),
        (3 * 86400 + 4 * 3600, "3d4h"),
    ],
)
def test_durations_show_their_two_largest_units(seconds: float, shown: str) -> None:
    """Short enough for a column, exact enough for an operator; never negative."""
    assert output.span(timedelta(seconds=seconds)) == shown


def test_tables_fit_whatever_is_in_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer than the width, headings stay above their columns, numbers end together."""
    monkeypatch.setenv("COLUMNS", str(output.WIDTH))
    output.table(
        ("TASK", "KIND", "ERROR"), [(7, "k" * 200, "e" * 300), (123456, "short", "line\nbreak")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= output.WIDTH
    assert lines[0].startswith("  TASK  KIND")
    assert lines[1].startswith("     7  kkk")
    assert "…" in lines[1]
    assert lines[2].endswith("line break")


def test_foreign_text_cannot_command_the_terminal() -> None:
    """Escape sequences and text that runs backwards are shown, not obeyed; line breaks stay."""
    shown = output.readable("a\x1b[31mb\u202ec\n\td é")
    assert shown == "a\\x1b[31mb\\u202ec\n\td é"
    assert output.one_line("a\r\n  b") == "a\\r b"


def test_documents_have_utc_times_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the zone of a time, JSON has it in ISO 8601 and UTC; durations are seconds."""
    east = datetime(2026, 11, 23, 3, 0, tzinfo=timezone(timedelta(hours=3)))
    assert east.astimezone(UTC).hour == 0
    output.document({"at": east, "for": timedelta(minutes=1.5)})
    assert capsys.readouterr().out == (
        '{\n  "at": "2026-11-23T00:00:00+00:00",\n  "for": 90.0\n}\n'
    )
