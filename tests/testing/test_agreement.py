"""What passes inline passes on a peer, and what fails there fails inline, for the same reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from peers.testing import Database, drain, run_task, running_peer
from tests.testing import app_for_peer as app

if TYPE_CHECKING:
    from peers import Task

_APP: Final = "tests.testing.app_for_peer"
_ODD: Final = (
    "set", "nan", "nul", "surrogate", "large", "deep", "tuple", "reject", "exit", "timeout",
)  # fmt: skip
_CASES: Final[list[tuple[Task[..., Any], dict[str, Any]]]] = [
    *((app.odd, {"what": what}) for what in _ODD),
    (app.typed, {"point": {"x": 1, "y": "2.50"}, "day": "2026-01-02"}),
    (app.typed, {"point": {"x": 1, "y": "2.50"}, "day": "2026-01-02", "colour": "red"}),
    (app.typed, {"point": {"x": "1", "y": "2.50"}, "day": "2026-01-02"}),
    (app.typed, {"point": {"x": 1, "y": "2.50"}}),
    (app.typed, {"point": {"x": 1, "y": "2.50"}, "day": "2026-01-02", "more": 1}),
    (app.annotated, {"number": 1}),
    (app.slow, {}),
    (app.hangs, {}),
    (app.slow_async, {}),
    (app.async_, {"n": 1}),
]
_TIMEOUT: Final = "timeout"


def inline(task: Task[..., Any], args: dict[str, Any]) -> object:
    """Return the result as it is stored, or the name of the error."""
    try:
        result = run_task(task, **task.handler.load_args(args))
    except TimeoutError as error:
        return _TIMEOUT if "ran longer than" in str(error) else "TimeoutError"
    except BaseException as error:  # noqa: BLE001  # SystemExit, too
        return type(error).__name__
    return task.handler.dump_result(result)


def recorded(database: Database, task_id: int) -> object:
    """Return the same of a task that was run elsewhere."""
    found = database.client.get(task_id)
    if found.state == "completed":
        return found.result
    assert found.failure is not None
    return found.failure.error_type.rsplit(".")[-1]


def submitted_in_sql(database: Database) -> list[int]:
    """Submit a task for each case. SQL checks no args."""
    query = "select peers.submit(%s, %s::jsonb)"
    with database.connect() as connection:
        return [
            int(connection.execute(query, (task.kind, json.dumps(args))).fetchall()[0][0])
            for task, args in _CASES
        ]


def test_inline_a_drain_and_a_peer_agree(database: Database) -> None:
    """For results and errors of many sorts."""
    on_peer = submitted_in_sql(database)
    with running_peer(_APP, queues={"default": 4}) as peer:
        peer.wait_until_idle("100s")
    expected = [recorded(database, each) for each in on_peer]
    assert len(set(map(str, expected))) > 6

    in_drain = submitted_in_sql(database)
    drain(raise_errors=False, kinds={task.kind for task, _ in _CASES})
    assert [recorded(database, each) for each in in_drain] == expected

    assert [inline(task, args) for task, args in _CASES] == expected


def test_a_drain_and_a_peer_declare_the_same_about_a_kind(database: Database) -> None:
    """What its decorator says, for those who submit by its name."""

    def declared() -> list[tuple[Any, ...]]:
        with database.connect() as connection:
            return connection.execute(
                "delete from peers.kind returning kind, queue, priority, max_attempts, timeout,"
                " backoff_base, backoff_cap"
            ).fetchall()

    app.pid.submit()
    with running_peer(_APP, queues={"default": 1}) as peer:
        peer.wait_until_idle("60s")
    by_a_peer = declared()
    drain(kinds=[each[0] for each in by_a_peer])
    assert sorted(by_a_peer) == sorted(declared())
    [pid] = [each for each in by_a_peer if each[0] == "pid"]
    assert pid[1:4] == ("default", 7, 2)
