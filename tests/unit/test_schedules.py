"""When a peer looks at the schedules, and what it computes of them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from peers import BadSchedule, Schedule, task
from peers.peer import schedules as schedules_module
from peers.peer.declarations import Declarations
from peers.peer.due_times import MISSED_MAX, SUBMITTED_MAX, backfill_of, fire_of
from peers.peer.schedules import Schedules
from peers.worker import app

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Reply:
    """A result of the database with one text, or with rows of texts."""

    def __init__(self, *rows: tuple[Any, ...]) -> None:
        self.rows = rows
        self.ntuples = len(rows)

    def get_value(self, row: int, column: int) -> bytes | None:
        """Return one value."""
        value: bytes | None = self.rows[row][column]
        return value


def due(next_in: float | None = 3600, **found: Any) -> Reply:
    """Return the reply to a look: the next schedule is due in so many seconds."""
    now = NOON.timestamp()
    document = {"schedules": [], "backfills": [], "late": [], "now": now, **found}
    document["next"] = None if next_in is None else now + next_in
    then_in = document.pop("then_in", None)
    document["then"] = None if then_in is None else now + then_in
    return Reply((json.dumps(document).encode(),))


def a_row(**columns: Any) -> dict[str, Any]:
    """Return an hourly schedule as peers.due_schedules does."""
    return {
        "name": "s", "revision": "r", "cron": "0 * * * *", "every": None, "anchor": None,
        "timezone": "UTC", "next_due_at": NOON.isoformat(), "all": False, "catch_up": 86400,
        "computed_from": (NOON - timedelta(hours=5)).isoformat(), **columns,
    }  # fmt: skip


class Peer:
    """The chore, driven as the maintenance drives it."""

    def __init__(self, *, is_listening: bool = True) -> None:
        self.chore = Schedules(lambda: is_listening)

    def step(self, reply: Reply) -> str:
        """Do one step, and return which function it called."""
        statement = self.chore.write(uuid4(), self.chore.size)
        finished = self.chore.read(reply, self.chore.size)  # type: ignore[arg-type]
        self.chore.done(0.0, finished=finished)
        if b"due_schedules" not in statement.query:
            return "fire"
        return "look" if statement.parameters[1] == b"f" else "look for unlocked"

    def due_in(self) -> float:
        """Return the seconds until its next step."""
        return self.chore.due_at() - time.monotonic()


# ----------------------------------------------------------------------------------- when it looks


@pytest.mark.parametrize(
    ("next_in", "listening", "least", "most"),
    [
        (3600, True, 29, 30),  # a notification tells of new schedules; it may be lost
        (None, True, 29, 30),
        (3600, False, 0.9, 1),
        (2, True, 1.9, 2.1),
        (0.2, True, 0.1, 0.25),
    ],
)
def test_a_peer_looks_when_the_next_schedule_is_due(
    next_in: float | None, listening: bool, least: float, most: float
) -> None:
    """An idle one looks every 30 seconds, or each second without notifications."""
    peer = Peer(is_listening=listening)
    assert peer.due_in() <= 0
    began = time.monotonic()
    assert peer.step(due(next_in)) == "look"
    assert least < peer.chore.due_at() - began
    assert peer.due_in() <= most
    peer.chore.look_now()
    assert peer.due_in() <= 0


def test_what_is_due_is_fired_and_looked_for_again() -> None:
    """Until nothing is due."""
    peer = Peer()
    assert peer.step(due(-1, schedules=[a_row()])) == "look"
    assert peer.due_in() <= 0
    assert peer.step(Reply((b"s", None, b"", None, None))) == "fire"
    assert peer.due_in() <= 0
    assert peer.step(due()) == "look"
    assert peer.due_in() > 5


def test_due_times_that_take_long_are_computed_in_steps() -> None:
    """The peer's own tasks do not wait until those of all schedules are computed."""
    peer = Peer()
    yesterday = (NOON - timedelta(days=1)).isoformat()
    many = [
        a_row(name=f"s{n}", cron="* * * * *", timezone="Europe/Berlin", next_due_at=yesterday)
        for n in range(50)
    ]
    began = time.process_time()
    assert peer.step(due(-1, schedules=many)) == "look"
    assert time.process_time() - began < 1
    assert 1 <= len(peer.chore._fires) < 25
    assert peer.due_in() <= 0


def test_a_peer_that_comes_second_waits_longer_and_longer() -> None:
    """Another peer, or a session that has locked the row, is not asked in a busy loop."""
    peer, at_least, at_most = Peer(), [], []
    for n in range(8):
        look = "look for unlocked" if n else "look"
        assert peer.step(due(-1, schedules=[a_row()])) == look
        began = time.monotonic()
        assert peer.step(Reply()) == "fire"
        at_most.append(peer.due_in())
        at_least.append(peer.chore.due_at() - began)
        peer.chore._look_at = 0.0  # as if the time had passed
    assert at_most[0] <= schedules_module._AGAIN_AFTER
    assert at_most[-1] <= schedules_module._AGAIN_MAX
    assert at_least[-1] > 0.4
    began = time.monotonic()
    assert peer.step(due(-1)) == "look for unlocked"  # an alert whose row is locked
    assert peer.chore.due_at() - began > 0.4
    assert peer.step(due()) == "look for unlocked"
    assert peer.step(due()) == "look"
    assert peer.chore._misses == 0


def test_what_is_due_soon_does_not_wait_for_what_is_locked() -> None:
    """A peer looks in time for the others, however long it has tried one in vain."""
    peer = Peer()
    for _ in range(8):
        peer.step(due(-1, then_in=0.2, schedules=[a_row()]))
        assert peer.step(Reply()) == "fire"
        assert peer.due_in() < 0.25
        peer.chore._look_at = 0.0  # as if the time had passed


def test_a_schedule_that_is_refused_alone_is_recorded_as_failed() -> None:
    """Its next try has to wait, so that it does not stop the others for ever."""
    peer = Peer()
    peer.step(due(-1, schedules=[a_row()]))
    peer.chore.write(uuid4(), 1)
    peer.chore.failed()
    statement = peer.chore.write(uuid4(), 1)
    [fire] = json.loads(statement.parameters[0] or b"")
    assert fire["name"] == "s"
    assert "did not finish it in time" in fire["error"]
    peer.chore.failed()  # the database refuses this as well
    assert peer.step(due()) == "look"


def test_a_backfill_that_is_refused_is_recorded_as_failed() -> None:
    """It is submitted apart from the schedules that are due, and so fails alone."""
    backfill = {"id": 1, "from_at": NOON.isoformat(), "until_at": NOON.isoformat(),
                "done_until": None, **a_row()}  # fmt: skip
    peer = Peer()
    peer.step(due(-1, schedules=[a_row(name="t")], backfills=[backfill]))
    fires, backfills = peer.chore.write(uuid4(), 1).parameters
    assert ([fire["name"] for fire in json.loads(fires or b"")], backfills) == (["t"], b"[]")
    fired = Reply((b"t", None, b"", None, None))
    assert not peer.chore.read(fired, 1)  # type: ignore[arg-type]
    fires, backfills = peer.chore.write(uuid4(), 1).parameters
    assert (fires, len(json.loads(backfills or b""))) == (b"[]", 1)
    peer.chore.failed()
    fires, backfills = peer.chore.write(uuid4(), 1).parameters
    [failed] = json.loads(backfills or b"")
    assert (fires, failed["id"], failed["done_until"]) == (b"[]", 1, None)
    assert "did not finish it in time" in failed["error"]
    peer.chore.failed()  # the database refuses this as well
    assert peer.step(due()) == "look"


def test_a_refused_step_is_forgotten() -> None:
    """Another peer may have fired meanwhile: look again first."""
    peer = Peer()
    peer.step(due(-1, schedules=[a_row(), a_row(name="t")]))
    peer.chore.write(uuid4(), 1)
    peer.chore.failed()
    assert peer.step(due()) == "look"


# -------------------------------------------------------------------------------- what it computes


def test_a_due_time_and_the_one_that_follows() -> None:
    """The usual case."""
    fire = fire_of(a_row(), NOON + timedelta(milliseconds=5))
    assert fire == {
        "name": "s", "revision": "r", "next_due_at": NOON.isoformat(),
        "due_times": [NOON.isoformat()],
        "then_due_at": (NOON + timedelta(hours=1)).isoformat(),
    }  # fmt: skip


def test_missed_times_are_listed() -> None:
    """From the next due time on, also of a schedule whose next due time is not known."""
    now = NOON + timedelta(hours=2, minutes=30)
    assert len(fire_of(a_row(), now)["due_times"]) == 3
    assert len(fire_of(a_row(next_due_at=None), NOON)["due_times"]) == 5
    future = a_row(next_due_at=None, computed_from=NOON.isoformat())
    assert fire_of(future, NOON)["due_times"] == []


def test_many_missed_times_go_in_steps() -> None:
    """Each step ends where the next one begins."""
    now = NOON + timedelta(hours=MISSED_MAX + 500)
    fire = fire_of(a_row(catch_up=1e8), now)
    assert len(fire["due_times"]) == MISSED_MAX
    assert fire["then_due_at"] == (NOON + timedelta(hours=MISSED_MAX)).isoformat()
    assert len(fire_of(a_row(catch_up=1e8, all=True), now)["due_times"]) == SUBMITTED_MAX
    fire = fire_of(a_row(catch_up=3600), now)
    assert (fire["skipped_from"], fire["due_times"]) == (NOON.isoformat(), [])
    assert fire["then_due_at"] == now.isoformat()


def test_a_zone_that_this_host_does_not_know_is_told() -> None:
    """The database is told, so that another peer or an operator learns of it."""
    assert "Mars" in fire_of(a_row(timezone="Mars"), NOON)["error"]
    backfill = {"id": 1, "from_at": NOON.isoformat(), "until_at": NOON.isoformat(),
                "done_until": None, **a_row(timezone="Mars")}  # fmt: skip
    assert "Mars" in backfill_of(backfill)["error"]


def test_a_backfill_includes_both_ends() -> None:
    """And goes on after what is done."""
    until = NOON + timedelta(hours=2)
    backfill = {"id": 1, "from_at": NOON.isoformat(), "until_at": until.isoformat(),
                "done_until": None, **a_row()}  # fmt: skip
    assert [len(backfill_of(backfill)["due_times"]), backfill_of(backfill)["finished"]] == [3, True]
    rest = backfill_of({**backfill, "done_until": NOON.isoformat()})
    assert len(rest["due_times"]) == 2
    long = {**backfill, "until_at": (NOON + timedelta(days=30)).isoformat()}
    assert (len(backfill_of(long)["due_times"]), backfill_of(long)["finished"]) == (50, False)


@pytest.mark.parametrize("name", ["every", "jitter", "catch_up", "expect_within"])
@pytest.mark.parametrize("span", [float("nan"), float("inf"), 1e308, "5 mins!", True])
def test_a_duration_that_is_none_is_refused(name: str, span: Any) -> None:
    """With the error that the docstring promises."""
    cron = None if name == "every" else "@daily"
    with pytest.raises(BadSchedule, match=f"{name} must be"):
        Schedule(**{"cron": cron, name: span})


# ------------------------------------------------------------------------------ what code declares


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the handlers of a test be the only ones."""
    monkeypatch.setattr("peers.handlers._registry", {})
    monkeypatch.setattr("peers.handlers._schedules", {})


@pytest.mark.usefixtures("registry")
def test_the_app_declares_its_schedules() -> None:
    """With the queue and the priority of the handler; the first has the kind's name."""

    @task("a", queue="q", priority=7, every=60, schedules=[Schedule(name="b", cron="@daily")])
    def handler(n: int = 1) -> None: ...

    first, second = json.loads(app.declarations())["schedules"]
    assert (first["name"], first["every"], first["kind"]) == ("a", "60.000000 seconds", "a")
    assert (first["queue"], first["priority"], first["args"]) == ("q", 7, {})
    assert (second["name"], second["cron"]) == ("b", "@daily")
    assert "every" not in second


@pytest.mark.usefixtures("registry")
def test_the_app_declares_an_anchor() -> None:
    """The first due time of a period; it has a time zone, and cron has none."""
    morning = datetime(2026, 11, 20, 6, tzinfo=UTC)

    @task("a", schedules=[Schedule(every=86400, anchor=morning)])
    def handler() -> None: ...

    [declared] = json.loads(app.declarations())["schedules"]
    assert datetime.fromisoformat(declared["anchor"]) == morning
    with pytest.raises(BadSchedule, match="has no time zone"):
        Schedule(every=60, anchor=morning.replace(tzinfo=None))
    with pytest.raises(BadSchedule, match="anchor belongs to every"):
        Schedule(cron="@daily", anchor=morning)


@pytest.mark.usefixtures("registry")
def test_a_time_zone_belongs_to_a_schedule() -> None:
    """Without cron and every it would have no effect."""
    weekly = Schedule(cron="0 7 * * mon")
    with pytest.raises(BadSchedule, match="timezone of 'a' belongs to cron") as refused:
        task("a", timezone="Europe/Berlin", schedules=[weekly])
    assert "Schedule(" in str(refused.value)

    def handler() -> None: ...

    task("a", cron="@daily", timezone="Europe/Berlin")(handler)
    task("b", cron="@daily")(handler)
    zones = [each["timezone"] for each in json.loads(app.declarations())["schedules"]]
    assert zones == ["Europe/Berlin", "UTC"]


@pytest.mark.usefixtures("registry")
def test_two_kinds_cannot_declare_one_schedule() -> None:
    """Nor can one kind declare two of one name."""

    def handler() -> None: ...

    def other() -> None: ...

    task("a", cron="@daily")(handler)
    with pytest.raises(BadSchedule, match="already has a schedule"):
        task("b", schedules=[Schedule(name="a", cron="@daily")])(other)
    with pytest.raises(ValueError, match="different names"):
        task("c", schedules=[Schedule(cron="@daily"), Schedule(cron="@hourly")])(other)
    with pytest.raises(BadSchedule, match="five fields"):
        task("d", cron="nonsense")(other)


def test_nothing_is_declared_without_a_declaration() -> None:
    """An app without schedules costs no statement."""
    declarations = Declarations(lambda: b'{"schedules": []}')
    declarations.declare()
    assert {each.due_at() for each in declarations.chores} == {float("inf")}
    declarations = Declarations(lambda: b'{"schedules": [{"name": "s"}]}')
    [chore] = [each for each in declarations.chores if each.name == "declare_schedules"]
    assert chore.due_at() == float("inf")
    declarations.declare()
    assert chore.due_at() == 0
    statement = chore.write(uuid4(), 1)
    assert statement.parameters[1] == b'[{"name": "s"}]'
    assert chore.read(Reply((b"s", b"created")), 1)  # type: ignore[arg-type]
    chore.done(0.1, finished=True)
    assert chore.due_at() == float("inf")


def test_a_locked_schedule_is_declared_again() -> None:
    """After a second, until the session that has locked it has ended."""
    declarations = Declarations(lambda: b'{"schedules": [{"name": "s"}]}')
    [chore] = [each for each in declarations.chores if each.name == "declare_schedules"]
    declarations.declare()
    for _ in range(4):
        finished = chore.read(Reply((b"s", b"locked"), (b"t", b"created")), 1)  # type: ignore[arg-type]
        assert not finished
        done = time.monotonic()
        chore.done(0.001, finished=finished)
        assert done + 0.9 < chore.due_at() <= time.monotonic() + 1
    assert chore.read(Reply((b"s", b"changed")), 1)  # type: ignore[arg-type]
