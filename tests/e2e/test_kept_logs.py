"""The logs of attempts: kept for failures, whatever ended them, and of no other task's lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Databases

APP = "tests.e2e.app_logs"
WAYS = [
    "handler prints", "handler prints to stderr", "INFO    handler logs", "program", "error",
    "descriptor", "thread", "last",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with one peer."""
    with databases.clone() as url, Stage(url, tmp_path_factory.mktemp("shared")) as made:
        made.peer(APP, slots=2, cancel_grace="500ms")
        yield made


def logs(stage: Stage, task_id: int) -> list[dict[str, Any]]:
    """What is kept of a task."""
    return stage.rows("select * from peers.task_log where task_id = %s order by attempt", task_id)


def lines_of(text: str) -> list[str]:
    """The lines without the times of those that were logged."""
    found = text.splitlines()
    return [line[24:] if line[:4].isdigit() else line for line in found]


@pytest.mark.parametrize("how", ["raises", "exits", "killed"])
def test_all_that_a_failed_attempt_said_is_kept_in_order(shared: Stage, how: str) -> None:
    """Print, logging, programs, threads, half a line: also if the worker was killed."""
    task_id = shared.submit("log.fails", {"how": how})
    shared.until_state("dead", task_id)
    [log] = logs(shared, task_id)
    [failure] = shared.failures(task_id)
    text = log["text"]
    if how == "raises":  # a C library may hold it in a buffer until the handler is over
        assert "library" in text
    assert lines_of(text.replace("library\n", "")) == WAYS
    assert (log["outcome"], log["attempt"], log["cut"]) == ("failed", 1, False)
    assert log["size"] == len(log["text"].encode())
    assert (log["token"], log["peer_id"], log["host"]) == (
        failure["token"], failure["peer_id"], failure["host"],
    )  # fmt: skip


def test_a_handler_that_is_killed_for_its_timeout_leaves_its_log(shared: Stage) -> None:
    """That is when one needs it."""
    task_id = shared.submit(
        "log.fails", {"how": "hangs", "gate": shared.gate("never")}, timeout="1 s"
    )
    shared.until_state("dead", task_id)
    [log] = logs(shared, task_id)
    assert lines_of(log["text"])[-1] == "last"
    assert shared.failures(task_id)[0]["error_type"] == "timeout"


def test_a_completed_attempt_leaves_its_log_only_if_that_is_wanted(shared: Stage) -> None:
    """keep_log=True is for failures, "always" for all, and nothing is the default."""
    quiet = shared.submit("log.fails", {"how": "returns"})
    plain = shared.submit("log.plain", {"who": "x"})
    loud = shared.submit("log.always", {"text": "hello"})
    shared.until_state("completed", quiet, plain, loud)
    assert logs(shared, quiet) == logs(shared, plain) == []
    [log] = logs(shared, loud)
    assert (log["text"], log["outcome"]) == ("hello\n", "completed")


def test_each_attempt_has_its_own_log(shared: Stage) -> None:
    """With its number."""
    task_id = shared.submit("log.last.words", {})
    shared.until_state("dead", task_id)
    assert [(log["attempt"], log["text"]) for log in logs(shared, task_id)] == [
        (1, "attempt 1\n"), (2, "attempt 2\n"),
    ]  # fmt: skip


def test_what_no_database_stores_is_escaped_and_costs_no_outcome(shared: Stage) -> None:
    """NUL, lone surrogates, bytes that are no UTF-8; colours stay."""
    task_id = shared.submit("log.odd", {})
    shared.until_state("dead", task_id)
    assert shared.failures(task_id)[0]["error_type"] == "ValueError"
    [log] = logs(shared, task_id)
    assert log["text"] == (
        "nul \\0, half \\udce4, colour \x1b[31mred\x1b[0m, euro €\nraw \\xff\\xfe nul \\0\n"
    )


def test_the_last_64_kib_are_kept(shared: Stage) -> None:
    """And it is said that there was more."""
    task_id = shared.submit("log.large", {"lines": 20_000})
    shared.until_state("dead", task_id)
    [log] = logs(shared, task_id)
    whole = "".join(f"line {number} é\n" for number in range(20_000))
    assert log["cut"]
    assert log["size"] == len(whole.encode())
    assert whole.endswith(log["text"])
    assert 65_000 < len(log["text"].encode()) <= 65_536


@pytest.mark.parametrize("how", ["raises", "killed", "blocks"])
def test_async_handlers_share_a_process_but_no_log(shared: Stage, how: str) -> None:
    """Each has its own lines, those of its subtasks too; also the one that ends the worker."""
    gates = [shared.gate(f"{how}-{number}") for number in range(5)]
    tasks = [
        shared.submit(
            "log.async", {"who": f"w{number}", "how": how if number == 0 else "", "gate": gate},
            timeout="2 s" if how == "blocks" and number == 0 else "60 s",
        )
        for number, gate in enumerate(gates)
    ]  # fmt: skip
    shared.open(gates[0])
    shared.until_state("dead", tasks[0])
    for gate in gates[1:]:
        shared.open(gate)
    shared.until_state("completed", *tasks[1:])
    [log] = logs(shared, tasks[0])
    expected = [
        line for number in range(3) for line in (f"w0 {number}", f"INFO    w0 logs {number}")
    ]
    assert lines_of(log["text"]) == [*expected, "w0 subtask"]


def test_a_batch_leaves_the_log_of_the_call_that_failed_for_good(shared: Stage) -> None:
    """The task that was found by bisecting has that of its own call."""
    ids = shared.rows(
        "insert into peers.task (kind, args)"
        " select 'log.batch', jsonb_build_object('n', n) from generate_series(1, 4) n returning id"
    )
    tasks = [row["id"] for row in ids]
    shared.until_state("dead", tasks[1])
    shared.until_state("completed", tasks[0], *tasks[2:])
    [log] = logs(shared, tasks[1])
    assert log["text"] == "called with [2]\n"
    assert [logs(shared, each) for each in (tasks[0], *tasks[2:])] == [[], [], []]


def test_the_lines_of_a_program_are_in_the_peers_log_too(shared: Stage) -> None:
    """With the task, like those of the handler itself."""
    task_id = shared.submit("log.fails", {"how": "raises"})
    shared.until_state("dead", task_id)
    token = str(shared.failures(task_id)[0]["token"])

    def lines() -> list[dict[str, Any]]:
        return [line for line in read(shared.peers[0].log) if line.get("token") == token]

    until(lambda: {"program", "error"} <= {line["message"] for line in lines()}, "its lines")
    for line in lines():
        assert (line["task_id"], line["kind"], line["attempt"]) == (task_id, "log.fails", 1)


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of a peer's log."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]


# ------------------------------------------------------------------------- lines in the peer's log


@pytest.mark.parametrize(
    ("kind", "args", "who"),
    [
        ("log.plain", {"who": "x"}, ["x"]),
        ("log.threads", {}, ["thread", "pool"]),
        ("log.async.threads", {"who": "y"}, ["y thread", "y to_thread", "y executor"]),
    ],
)
def test_each_line_of_a_handler_names_its_attempt(
    shared: Stage, kind: str, args: dict[str, object], who: list[str]
) -> None:
    """Prints and logging, of sync and async handlers and of their threads, without keep_log."""
    task_id = shared.submit(kind, args)
    shared.until_state("completed", task_id)
    token = str(shared.row("select token from peers.task where id = %s", task_id)["token"])
    expected = {(s, "stdout", f"{s} prints") for s in who}
    expected |= {(s, "stderr", f"{s} prints to stderr") for s in who}
    expected |= {(s, "shop", f"{s} logs") for s in who}
    wanted = {(logger, text) for _, logger, text in expected}
    if kind == "log.plain":
        wanted.add(("stdout", "no end"))

    def lines() -> list[dict[str, Any]]:
        return [line for line in read(shared.peers[0].log) if line.get("token") == token]

    until(lambda: wanted <= {(e["logger"], e["message"]) for e in lines()}, f"{wanted}")
    for line in lines():
        assert (line["task_id"], line["kind"], line["attempt"]) == (task_id, kind, 1)


# ------------------------------------------------------------------------------- while they run


def test_a_running_log_is_stored_while_somebody_follows(shared: Stage) -> None:
    """Otherwise nothing is stored so early; it completes, and stays: somebody wanted to see it."""
    gate = shared.gate("steps")
    task_id = shared.submit("log.steps", {"gate": gate, "count": 2})
    shared.until_state("running", task_id)
    until(
        lambda: any(e["message"] == "step 0" for e in read(shared.peers[0].log)), "its first line"
    )
    assert logs(shared, task_id) == []
    shared.db.execute("select peers.follow_log(%s)", (task_id,))
    stored = "select coalesce(max(text), '') = %s from peers.task_log where task_id = %s"
    shared.until_true(stored, "step 0\n", task_id)
    assert logs(shared, task_id)[0]["outcome"] is None
    shared.open(f"{gate}-0")
    shared.until_true(stored, "step 0\nstep 1\n", task_id)
    shared.open(f"{gate}-1")
    shared.until_state("completed", task_id)
    [log] = logs(shared, task_id)
    assert (log["text"], log["outcome"]) == ("step 0\nstep 1\ndone\n", "completed")


def test_a_lost_peer_leaves_what_it_had_stored(stage: Stage) -> None:
    """What was followed, or what had run for a while: the next attempt has a log of its own."""
    peer = stage.peer(APP, slots=1)
    gate = stage.gate("lost")
    task_id = stage.submit("log.steps", {"gate": gate, "count": 1})
    stage.until_state("running", task_id)
    stored = "select count(*) = %s from peers.task_log where task_id = %s"

    def follow() -> bool:
        stage.db.execute("select peers.follow_log(%s)", (task_id,))
        return [log["text"] for log in logs(stage, task_id)] == ["step 0\n"]

    until(follow, "the log")
    peer.kill()
    other = stage.peer(APP, slots=1)
    other.await_event("task_reclaimed")
    stage.open(f"{gate}-0")
    stage.until_state("completed", task_id)
    stage.until_true(stored, 1, task_id)
    [log] = logs(stage, task_id)
    assert (log["text"], log["outcome"], log["attempt"]) == ("step 0\n", None, 1)


def test_a_log_that_the_database_refuses_costs_no_outcome(stage: Stage) -> None:
    """A trigger of the application may raise; the event says which log is missing, and why."""
    stage.db.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'no logs today'; end $$;"
        "create trigger refuse before insert on peers.task_log"
        " for each row execute function public.refuse()"
    )
    peer = stage.peer(APP, slots=1)
    task_id = stage.submit("log.fails", {"how": "raises"})
    stage.until_state("dead", task_id)
    assert logs(stage, task_id) == []
    assert stage.failures(task_id)[0]["error_type"] == "ValueError"
    told = peer.await_event("task_log_lost")
    assert (told["task_id"], told["kind"]) == (task_id, "log.fails")
    assert "no logs today" in told["reason"]
    assert peer.events("outcome_refused") == []
