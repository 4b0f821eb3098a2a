"""What the log looks like: nothing that user code logs is lost, breaks a line or raises."""

from __future__ import annotations

import json
import logging
import math
import traceback
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from peers import events
from peers.logs.log_format import Json, Text

if TYPE_CHECKING:
    pass


class Raises:
    """An object of user code that cannot be described."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def record(message: object = "said", *args: object, **extra: object) -> logging.LogRecord:
    """What `logging.getLogger("shop").info(message, *args, extra=extra)` makes."""
    return logging.getLogger("shop").makeRecord(
        "shop", logging.INFO, "shop.py", 1, message, args, None, extra=extra
    )


def in_json(made: logging.LogRecord) -> dict[str, Any]:
    """The record's line, which must be JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    line = Json(journal=False).format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


def test_what_a_handler_adds_to_a_record_is_kept() -> None:
    """`extra={…}` becomes fields, in JSON and in text; what is no event of ours has one too."""
    made = record("paid", order=7, who={"name": "é"})
    line = in_json(made)
    assert (line["event"], line["order"], line["who"]) == ("log", 7, {"name": "é"})
    assert Text(journal=False).format(made).endswith("paid  [order=7 who={'name': 'é'}]")


@pytest.mark.parametrize(
    "name", ["time", "level", "logger", "traceback", "task_id", "kind", "fields", "extra_time"]
)
def test_an_extra_of_any_name_takes_no_others_place(name: str) -> None:
    """The line's own facts stay true, and the handler's are there under another name."""
    made = record("x", **{name: "theirs"})
    events.add_fields(made, {"task_id": 1, "kind": "a"})
    line = in_json(made)
    assert (line["level"], line["logger"], line["task_id"], line["kind"]) == (
        "info",
        "shop",
        1,
        "a",
    )
    assert "theirs" in (line.get(name), line.get(f"extra_{name}"))
    assert "theirs" in Text(journal=False).format(made)


def test_a_handler_may_name_its_event() -> None:
    """As users of structured logs do."""
    assert in_json(record("x", event="paid"))["event"] == "paid"
    assert in_json(record("x", event=7))["extra_event"] == 7


def test_a_list_of_tokens_is_readable() -> None:
    """In text it can be copied."""
    token = UUID("0d3a4e8c-36c0-4d8e-9b53-0f4c8fbfd0a4")
    line = Text(journal=False).format(record("x", tokens=[token, token]))
    assert line.endswith(f"x  [tokens=[{token}, {token}]]")
    assert in_json(record("x", tokens=[token]))["tokens"] == [str(token)]


CYCLE: list[object] = []
CYCLE.append(CYCLE)
DEEP: list[object] = []
for _ in range(5_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("form", [Json(journal=False), Text(journal=False), Json(journal=True)])
@pytest.mark.parametrize(
    "made",
    [
        record("%s", Raises()),
        record(Raises()),
        record("%d of %d", 1),
        record("%d", "one"),
        record("x", it=Raises()),
        record("x", it=[Raises()]),
        record("x", it={(1, 2): 3}),
        record("x", it=CYCLE),
        record("x", it=math.nan),
        record("x", it=[math.inf]),
        record("\udc80", it="\udc80"),
        record("a\nb\x1b[2J\u2028c", it="d\ne"),
        record(b"bytes"),
        record({"a": "dict"}),
    ],
    ids=range(14),
)  # fmt: skip
def test_nothing_that_is_logged_raises_or_breaks_the_line(
    form: Json | Text, made: logging.LogRecord
) -> None:
    """Whatever its arguments and fields are: one line, and in JSON an object."""
    line = form.format(made)
    assert "\n" not in line
    if isinstance(form, Json):
        in_json(made)


def test_fields_of_any_depth_are_written() -> None:
    """Deeper than Python's own recursion."""
    assert in_json(record("x", it=DEEP, order=7))["order"] == 7


def _hostile_exceptions() -> list[BaseException]:
    class MuteError(Exception):
        __str__ = Raises.__str__

    circular = ValueError("a")
    circular.__cause__ = KeyError("b")
    circular.__cause__.__cause__ = circular
    return [
        SyntaxError("m", ("f", 3, "7", "x", 3, "9")),  # type: ignore[arg-type]
        MuteError(),
        circular,
        ExceptionGroup("g", [ValueError(str(n)) for n in range(1_000)]),
    ]


@pytest.mark.parametrize("error", _hostile_exceptions(), ids=lambda error: type(error).__name__)
def test_an_exception_that_cannot_be_described_is_named(error: BaseException) -> None:
    """Python's traceback module raises for some; the line is there all the same."""
    made = record("x")
    made.exc_info = (type(error), error, None)
    assert type(error).__name__ in in_json(made)["traceback"]
    assert type(error).__name__ in Text(journal=False).format(made)


def test_the_stack_that_was_asked_for_is_kept() -> None:
    """`stack_info=True`, in both forms."""
    made = record("x")
    made.stack_info = "".join(traceback.format_stack(limit=1))
    assert "test_log_format" in in_json(made)["traceback"]


# ------------------------------------------------------------------------------------- the journal


def test_priorities_are_there_for_the_journal() -> None:
    """Each line has the prefix of sd-daemon(3), the lines of a traceback too; no second clock."""
    made = record("x")
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    for level, sign in [
        (logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"),
        (logging.ERROR, "<3>"), (logging.CRITICAL, "<2>"),
    ]:  # fmt: skip
        made.levelno, made.levelname = level, logging.getLevelName(level)
        lines = Text(journal=True).format(made).splitlines()
        assert len(lines) > 3
        assert all(line.startswith(sign) for line in lines)
        assert lines[0] == f"{sign}{made.levelname:<7} x"
        assert Json(journal=True).format(made).startswith(f'{sign}{{"time"')


@pytest.mark.parametrize(
    "kind",
    ["a b", "a] [task_id=9", "a token=forged", 'a"b', "a\u2028b", "a\x1b[2Jb", "a\tb", "", "a\nb"],
)
def test_no_value_can_be_taken_for_other_fields(kind: str) -> None:
    """In text, a value with spaces or brackets is in quotes: it cannot forge a task or token."""
    made = record("said", kind=kind, token="mine")
    line = Text(journal=False).format(made)
    assert "\n" not in line
    quoted = json.dumps(kind, ensure_ascii=False)
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in quoted)
    assert line.endswith(f"said  [kind={printable} token=mine]")


def test_a_plain_value_has_no_quotes() -> None:
    """Names of kinds and ids stay easy to read and to search."""
    line = Text(journal=False).format(record("said", kind="thumbs.make", path="/srv/é.png"))
    assert line.endswith("[kind=thumbs.make path=/srv/é.png]")
