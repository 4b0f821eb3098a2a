"""Events: one line each, the same facts for people and for machines."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from peers import events
from peers.cli.summary import Summary
from peers.logs import log_output
from peers.pool.crash import WorkerExit
from tests.support.world import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

PEER = UUID("76ddae7f-c76b-44cc-a277-f2bcceaccc38")
TOKEN = UUID("0d3a4e8c-36c0-4d8e-9b53-0f4c8fbfd0a4")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """What configure() changes for the process is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # pytest's own must not be closed by configure()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("peers").setLevel(logging.NOTSET)


def test_a_json_line_has_the_sentence_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, on stderr alone, whose fields keep their types where JSON has them."""
    log_output.configure("json")
    events.task_reclaimed(
        task_id=7, kind="a", attempt=2, token=TOKEN, lost_peer_id=PEER, lost_host="vega"
    )
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert line["event"] == "task_reclaimed"
    assert line["level"] == "warning"
    assert line["message"] == "reclaimed task 7 (a) from a lost peer on host vega"
    assert (line["task_id"], line["attempt"], line["lost_peer_id"]) == (7, 2, str(PEER))
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


def test_text_adds_the_fields_that_the_sentence_leaves_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is said twice, nothing is lost."""
    log_output.configure("text")
    events.task_reclaimed(
        task_id=7, kind="a", attempt=2, token=TOKEN, lost_peer_id=PEER, lost_host=None
    )
    err = capsys.readouterr().err
    assert err.count("task 7") == 1
    assert "WARNING" in err
    assert f"[attempt=2 token={TOKEN} lost_peer_id={PEER}]" in err


def _can_be_none(event: events.Event) -> set[str]:
    """The fields of an event whose type has None in it."""
    declared = getattr(events, event.name).__annotations__
    return {name for name in event.fields if "None" in str(declared[name])}


@pytest.mark.parametrize(
    "event",
    [each for each in events.all_events.values() if _can_be_none(each)],
    ids=lambda e: e.name,
)
def test_no_text_line_says_none(
    event: events.Event, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the sentence a field without a value is unknown; in the brackets it is left out."""
    monkeypatch.setattr("peers.events.record._Process.peer_id", None)
    log_output.configure("text", "debug")
    empty = _can_be_none(event)
    getattr(events, event.name)(**{name: None if name in empty else 7 for name in event.fields})
    line = capsys.readouterr().err
    assert "None" not in line
    assert ("unknown" in line) == any(f"%({name})" in event.sentence for name in empty)


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (("SIGKILL", None), "worker 5 died: it was killed by SIGKILL; another replaces it"),
        ((None, 3), "worker 5 died: it exited with code 3; another replaces it"),
    ],
)
def test_a_worker_that_died_says_how(
    ended: tuple[str | None, int | None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the half that is known: a signal or an exit code."""
    log_output.configure("json")
    worker_exit = WorkerExit(*ended)
    events.worker_died(
        worker_pid=5, reason=worker_exit.description, exit_signal=worker_exit.exit_signal,
        exit_code=worker_exit.exit_code, task_ids=[], kinds=[], tokens=[],
    )  # fmt: skip
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == sentence
    assert (line["exit_signal"], line["exit_code"]) == ended


def test_no_terminal_means_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The form "auto" writes for machines unless somebody is looking."""
    log_output.configure("auto")
    events.tasks_pruned(deleted=3)
    assert json.loads(capsys.readouterr().err)["deleted"] == 3


def test_the_level_holds_for_events_and_others_are_heard_from_warning_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Thousands of completions a second are said at debug only; libraries stay quiet."""
    log_output.configure("json", "info")
    events.task_completed(task_id=1, kind="a", attempt=1, token=TOKEN, seconds=0.1)
    logging.getLogger("elsewhere").info("chatter")
    logging.getLogger("elsewhere").warning("50%% full: %s", "disk")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["50% full: disk"]
    log_output.configure("json", "debug")
    events.task_completed(task_id=1, kind="a", attempt=1, token=TOKEN, seconds=0.1)
    assert json.loads(capsys.readouterr().err)["event"] == "task_completed"


def test_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error message of several lines is one JSON object all the same."""
    log_output.configure("json")
    events.task_failed(
        task_id=1,
        kind="a",
        attempt=1,
        token=TOKEN,
        error_type="ValueError",
        error_message="one\ntwo % three",
    )
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_sentence_fits_its_fields() -> None:
    """No event names a field in its sentence that its signature lacks, or formats it wrongly."""
    samples: dict[str, object] = {
        "int": 1, "float": 1.5, "bool": True, "str": "x", "str | None": None, "int | None": None,
        "UUID": PEER, "datetime": datetime(2026, 1, 1, tzinfo=UTC),
        "Sequence[str]": ["a"], "Sequence[int]": [1], "Sequence[UUID]": [TOKEN],
        "Mapping[str, int]": {"default": 1},
        "BaseException | None": None,
    }  # fmt: skip
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment]
    logger = logging.getLogger("peers")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        for event in vars(events).values():
            if hasattr(event, "__wrapped__"):
                kinds = dict(event.__annotations__)
                del kinds["return"]
                event(**{name: samples[kind] for name, kind in kinds.items()})
                assert records[-1].getMessage()
    finally:
        logger.removeHandler(handler)
    assert len(records) > 20


EVENTS = Path(__file__).parent / "events.txt"


def test_no_event_is_renamed_or_loses_a_field_unnoticed() -> None:
    """Alerts and queries of users name events and fields: events.txt lists what they rely on.

    Whoever changes an event on purpose changes that file with it, and says so in CHANGELOG.md.
    """
    declared = [
        " ".join((f"{event.name} {logging.getLevelName(event.level).lower()}:", *event.fields))
        for event in events.all_events.values()
    ]
    assert sorted(declared) == EVENTS.read_text().splitlines()


NOT_CLAIMED = {"schedule_fired"}
"""Events about a task that no peer has claimed yet, so that it has neither attempt nor token."""


@pytest.mark.parametrize("event", events.all_events.values(), ids=lambda event: event.name)
def test_an_event_about_tasks_says_which_attempts(event: events.Event) -> None:
    """One task: its id, kind, attempt and token. Several: a list of each, or those of the first."""
    fields = set(event.fields)
    if "task_id" in fields and event.name not in NOT_CLAIMED:
        assert fields >= {"kind", "attempt", "token"}
    if "first_task_id" in fields:
        assert fields >= {"kind", "token"}
    if "task_ids" in fields:
        assert fields >= {"kinds", "tokens"}


def test_every_line_of_a_peer_carries_its_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has joined: all events, and what libraries log in its process."""
    monkeypatch.setattr("peers.events.record._Process.peer_id", None)
    log_output.configure("json", "debug")
    events.leases_reconciled(released=1)
    assert "peer_id" not in json.loads(capsys.readouterr().err)
    events.set_peer_id(PEER)
    for event in events.all_events.values():
        getattr(events, event.name)(**dict.fromkeys(event.fields))
    logging.getLogger("psycopg").warning("odd")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == len(events.all_events) + 1
    for line in lines:
        if line["event"] not in ("peer_joined", "peer_left", "peer_lost", "peer_fenced"):
            assert line["peer_id"] == str(PEER), line
        assert "peer_id" in line, line


class Output(io.StringIO):
    """A stream that says when a summary was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_summary = threading.Event()

    def write(self, text: str) -> int:
        """Write, and look for a summary."""
        written = super().write(text)
        if "tasks_ended" in text:
            self.has_summary.set()
        return written


def test_a_minutes_work_is_told_and_idleness_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """At info, where the line of each task is not: what ended since the last time."""
    # not capsys: what another thread writes while it is read may be lost
    output = Output()
    monkeypatch.setattr(sys, "stderr", output)
    log_output.configure("json", "info")
    with Summary(every=0.01):
        events.task_completed(task_id=1, kind="a", attempt=1, token=TOKEN, seconds=0.1)
        events.task_completed(task_id=2, kind="a", attempt=1, token=TOKEN, seconds=0.1)
        assert output.has_summary.wait(DEADLINE)
        events.task_failed(
            task_id=3, kind="a", attempt=1, token=TOKEN, error_type="E", error_message="m"
        )
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    told = [line for line in lines if line["event"] == "tasks_ended"]
    assert all(line["completed"] or line["failed"] for line in told)
    assert (sum(line["completed"] for line in told), told[-1]["failed"]) == (2, 1)
