"""Helpers of the tests of schedules: a peer that only fires."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from peers.peer.due_times import backfill_of, fire_of
from tests.support.world import row, rows, value

if TYPE_CHECKING:
    from tests.support.server import Connection


def add_schedule(db: Connection, name: str = "s", **columns: object) -> None:
    """Insert a schedule: of kind `a`, each hour, unless the columns say otherwise."""
    if "every" not in columns:
        columns.setdefault("cron", "0 * * * *")
    values = {"name": name, "kind": "a", **columns}
    marks = ", ".join(["%s"] * len(values))
    statement = f"insert into peers.schedule ({', '.join(values)}) values ({marks})"
    db.execute(statement.encode(), list(values.values()))


def due(db: Connection, most: int = 50, *, unlocked: bool = False) -> dict[str, Any]:
    """Return what peers.due_schedules returns."""
    found: dict[str, Any] = value(db, "select peers.due_schedules(%s, %s)", most, unlocked)
    return found


def planned(found: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the arguments of the calls that fire what is due, as a peer computes them."""
    now = datetime.fromtimestamp(found["now"], UTC)
    return (
        [fire_of(each, now) for each in found["schedules"]],
        [backfill_of(each) for each in found["backfills"]],
    )


def send(
    db: Connection, plan: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Fire what was planned, and return what became of it."""
    fires, backfills = map(json.dumps, plan)
    return [
        *rows(db, "select * from peers.fire_schedules(%s)", fires),
        *rows(db, "select * from peers.run_backfills(%s)", backfills),
    ]


def fire(db: Connection) -> list[dict[str, Any]]:
    """Fire all that is due, as one peer would, and return what became of the due times."""
    done: list[dict[str, Any]] = []
    for _ in range(1000):
        found = due(db)
        if not found["schedules"] and not found["backfills"]:
            return done
        made = send(db, planned(found))
        if not made and not found["backfills"]:
            return done  # another session has locked it
        done += [each for each in made if each["outcome"] is not None]
    raise AssertionError("there is no end of what is due")


def runs(db: Connection, name: str = "s") -> list[tuple[str, str | None]]:
    """Return the outcome and the reason of each recorded due time, the oldest first."""
    query = (
        "select outcome::text, reason from peers.schedule_run where schedule = %s order by due_at"
    )
    return [(each["outcome"], each["reason"]) for each in rows(db, query, name)]


def schedule(db: Connection, name: str = "s") -> dict[str, Any]:
    """Return the row of a schedule."""
    return row(db, "select * from peers.schedule where name = %s", name)


def tasks(db: Connection) -> list[int]:
    """Return the ids of all tasks."""
    return [each["id"] for each in rows(db, "select id from peers.task order by id")]


def refuse_kind(db: Connection, kind: str) -> None:
    """Have an application's trigger refuse each task of this kind."""
    db.execute(
        "create function poison() returns trigger language plpgsql as $$ begin"
        f" if new.kind = '{kind}' then raise 'not this kind'; end if; return new; end $$;"
        "create trigger poison before insert on peers.task"
        " for each row execute function poison()".encode()
    )


def set_clock(db: Connection, moment: str) -> None:
    """Move the scheduler's clock to a moment."""
    db.execute(
        "insert into peers.clock (shift) values (%s::timestamptz - clock_timestamp())"
        " on conflict (one_row) do update set shift = excluded.shift",
        (moment,),
    )
