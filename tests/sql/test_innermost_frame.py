"""The innermost frame of a traceback as peers write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from peers.worker.describe import describe
from tests.support.world import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection


def _fail() -> None:
    raise ValueError("deep")


def _plain() -> None:
    _fail()


def _caused() -> None:
    try:
        _fail()
    except ValueError as error:
        raise RuntimeError("wrapped") from error


def _during() -> None:
    try:
        _fail()
    except ValueError:
        _fail_again()


def _fail_again() -> None:
    raise KeyError("again")


def _errors(*calls: Callable[[], None]) -> list[Exception]:
    found: list[Exception] = []
    for call in calls:
        try:
            call()
        except (ValueError, RuntimeError, KeyError, ExceptionGroup) as error:
            found.append(error)
    return found


def _group() -> None:
    raise ExceptionGroup("some", _errors(_caused, _plain))


def _nested() -> None:
    raise ExceptionGroup("outer", _errors(_group, _plain))


def _never_raised() -> None:
    raise ExceptionGroup("some", [ValueError("no frames"), KeyError("none either")])


def _first_never_raised() -> None:
    raise ExceptionGroup("some", [ValueError("no frames"), *_errors(_plain)])


def _after_a_group() -> None:
    try:
        _group()
    except ExceptionGroup as error:
        raise RuntimeError("afterwards") from error


def _endless(depth: int = 0) -> int:
    return _endless(depth + 1) + 1


def _notes() -> None:
    try:
        _fail()
    except ValueError as error:
        error.add_note("seen at the till")
        raise


EXPECTED = {
    _plain: "_fail", _caused: "_caused", _during: "_fail_again", _group: "_caused",
    _nested: "_caused", _never_raised: "_never_raised", _first_never_raised: "_fail",
    _after_a_group: "_after_a_group", _endless: "_endless", _notes: "_fail",
}  # fmt: skip


def _traceback(call: Callable[[], object]) -> str:
    try:
        call()
    except (ValueError, RuntimeError, KeyError, ExceptionGroup) as error:
        found = describe(error).traceback
        assert found is not None
        return found
    raise AssertionError("it raised nothing")


def innermost(db: Connection, traceback: str | None) -> str | None:
    """Return what the database finds."""
    found: str | None = value(db, "select peers.innermost_frame(%s)", traceback)
    return found


@pytest.mark.parametrize("call", EXPECTED, ids=lambda call: call.__name__)
def test_the_frame_is_where_the_exception_was_raised(
    db: Connection, call: Callable[[], object]
) -> None:
    """Of a chain the last exception's, of a group that of its first member with frames."""
    found = innermost(db, _traceback(call))
    assert found is not None
    place, _, function = found.partition(" in ")
    assert place.startswith("sql/test_innermost_frame.py:")
    assert function == EXPECTED[call]


@pytest.mark.parametrize("call", EXPECTED, ids=lambda call: call.__name__)
def test_a_traceback_that_was_cut_still_has_a_frame(
    db: Connection, call: Callable[[], object]
) -> None:
    """Of a long one, a peer keeps the end: wherever it is cut, some frame of it is found."""
    whole = _traceback(call)
    last = whole.rindex("  File ")
    for cut in range(0, last, max(1, last // 7)):
        found = innermost(db, "…" + whole[cut:])
        assert found is not None
        assert "test_innermost_frame.py" in found


@pytest.mark.parametrize(
    "traceback", [None, "", "SIGKILL", "Traceback (most recent call last):\nValueError: x\n",
                  '  File "<string>", line 1\n    a b\nSyntaxError: invalid syntax\n'],
)  # fmt: skip
def test_without_frames_there_is_none(db: Connection, traceback: str | None) -> None:
    """A crash, a timeout and a lost peer have no traceback."""
    assert innermost(db, traceback) is None


def test_the_path_is_short(db: Connection) -> None:
    """It names the last folder and the file, which no deployment changes."""
    frame = '  File "{}", line 7, in f\nE: x'
    for path, short in {
        "/srv/releases/42/shop/tasks.py": "shop/tasks.py:7 in f", "tasks.py": "tasks.py:7 in f",
        "/tasks.py": "tasks.py:7 in f", "<string>": "<string>:7 in f",
    }.items():  # fmt: skip
        assert innermost(db, "Traceback\n" + frame.format(path)) == short
