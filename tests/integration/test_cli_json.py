"""JSON that Python itself cannot hold goes through every command unharmed."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from peers.cli import main
from peers.cli.exact_json import Json, exact, written
from tests.support.cli import Answer, Here, join

if TYPE_CHECKING:
    from tests.support.server import Connection

DEEP = '{"n": ' + "[" * 998 + "]" * 998 + "}"
DIGITS = "0.1234567890123456789012345678901234567890"
HOSTILE = {
    "a number that no float holds": '{"n": 1e10000}',
    "a number that is too long for an int": '{"n": ' + "7" * 5_000 + "}",
    "more digits than a float has": f'{{"n": {DIGITS}, "m": 1.10}}',
    "as deep as a task may be, and deeper than Python goes": DEEP,
    "odd text": r'{"\u2028": "\u001b[2J\ud83d\ude00", "": null}',
    "empty": "{}",
}


@pytest.fixture
def dead(request: pytest.FixtureRequest, db: Connection) -> int:
    """A dead letter whose args and metadata are this document."""
    peer = join(db, "a")
    [row] = db.execute(
        "insert into peers.task (kind, args, metadata) values ('a', %s, %s) returning id",
        (request.param, request.param),
    ).fetchall()
    [claim] = db.execute(
        "select token::text from peers.claim(%s, 'default', 1)", (peer,)
    ).fetchall()
    failure = {"task_id": row["id"], "error_type": "E", "error_message": "m", "reject": True}
    db.execute("select from peers.fail(%s, %s::jsonb)", (peer, json.dumps([{**failure, **claim}])))
    return int(row["id"])


def fine(found: Answer) -> str:
    """It worked; its output."""
    assert found.code == 0, found
    assert "Traceback" not in found.err
    return found.out


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Commands on the test's database."""
    return Here(database_url, monkeypatch, capsys)


@pytest.mark.parametrize("dead", HOSTILE.values(), ids=HOSTILE, indirect=True)
def test_every_command_shows_any_document(here: Here, db: Connection, dead: int) -> None:
    """What the database has is what `--json` prints, digit by digit; the text form survives it."""
    [row] = db.execute("select args::text, id from peers.task").fetchall()
    for words in (["dead", "show", str(dead)], ["explain", str(dead)]):
        shown = fine(here(*words, "--json"))
        assert f'"args": {row["args"]},' in shown
        assert f'"metadata": {row["args"]}' in shown
        fine(here(*words))
    fine(here("dead", "list", "--json"))
    assert here("status", "--running", "--json").code == 1  # there is a dead letter


def test_numbers_keep_their_digits_on_the_way_in(here: Here, db: Connection) -> None:
    """As a value, in a JSON object, in new args; and in metadata."""
    task = fine(
        here("submit", "a", f"n={DIGITS}", "--args", f'{{"m": [{DIGITS}, 1e400]}}',
             "--metadata", f'{{"k": {DIGITS}}}')
    ).strip()  # fmt: skip
    query = "select args::text as args, metadata::text as metadata from peers.task"
    [row] = db.execute(query).fetchall()
    assert json.loads(row["args"], parse_float=Decimal)["n"] == Decimal(DIGITS)
    assert row["args"].count(DIGITS) == 2
    assert "1" + "0" * 400 in row["args"]
    assert row["metadata"] == f'{{"k": {DIGITS}}}'
    fine(here("change", task, "--args", f'{{"z": {DIGITS}}}'))
    assert db.execute(query).fetchall()[0]["args"] == f'{{"z": {DIGITS}}}'


@pytest.mark.parametrize(
    "words",
    [["submit", "a", "--args", DEEP], ["submit", "a", f"n={DEEP}"], ["change", "1", "--args", DEEP],
     ["dead", "retry", "1", "--args", DEEP], ["submit", "a", "--metadata", DEEP]],
)  # fmt: skip
def test_what_is_nested_too_deeply_is_refused_in_words(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage, not a traceback."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "nested too deeply" in capsys.readouterr().err


def test_what_is_written_reads_back() -> None:
    """Any shape, in two spaces' indentation as Python's own encoder has it."""
    value = {"a": [1, {"b": []}, None], "c": {}, "d": "é\n", "e": 1.5, "f": True}
    assert written(value) == json.dumps(value, indent=2, ensure_ascii=False)
    text = '{"a": [1.10, -0, 1E5], "b": {"c": "x"}}'
    assert re.sub(r"\s+", "", written(exact(text))) == text.replace(" ", "")
    assert written({"n": Json("1e10000")}) == '{\n  "n": 1e10000\n}'
