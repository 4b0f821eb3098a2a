"""What handlers return, raise and ask, as it is found in the database."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Stage


def test_a_result_is_kept_as_json(shared: Stage) -> None:
    """What a handler returns is the task's result; None and text of any script come through."""
    ids = {what: shared.submit("returns", {"what": what}) for what in ("none", "unicode")}
    shared.until_state("completed", *ids.values())
    assert shared.task(ids["none"])["result"] is None
    assert shared.task(ids["unicode"])["result"] == "Zürich ☃ 𝄞"


def test_a_result_may_be_as_large_as_is_said(shared: Stage) -> None:
    """1 MiB of JSON is kept whole."""
    task_id = shared.submit("returns", {"what": "nearly too large"})
    shared.until_state("completed", task_id)
    assert len(shared.task(task_id)["result"]) == (1 << 20) - 2


def test_a_text_that_only_looks_like_a_nul_is_kept(shared: Stage) -> None:
    """A backslash followed by u0000 is ordinary text, which jsonb can hold."""
    task_id = shared.submit("returns", {"what": "escaped nul"})
    shared.until_state("completed", task_id)
    assert shared.task(task_id)["result"] == "a regular expression: \\u0000"


def test_a_result_that_cannot_be_kept_is_a_failure_and_stops_nobody_else(shared: Stage) -> None:
    """NaN, NUL, lone surrogates, more than 1 MiB, and what is no JSON are each a failure
    ResultInvalid of that task alone; tasks before and behind them complete.
    """
    bad = ["nan", "nul", "surrogate", "too large", "not json"]
    good: list[int] = []
    failed: dict[str, int] = {}
    with shared.db.transaction():
        for what in bad:
            good.append(shared.submit("noop", {"n": 1}))
            failed[what] = shared.submit("returns", {"what": what})
            good.append(shared.submit("noop", {"n": 2}))
    shared.until_state("dead", *failed.values())
    shared.until_state("completed", *good)
    for what, task_id in failed.items():
        [failure] = shared.failures(task_id)
        assert failure["error_type"] == "ResultInvalid", (what, failure["error_message"])
    assert "at most 1048576" in shared.failures(failed["too large"])[0]["error_message"]


def test_args_that_do_not_fit_the_signature_are_an_ordinary_failure(shared: Stage) -> None:
    """A missing, an unknown and a wrong argument are failures ArgsInvalid that name it; the handler
    is not called.
    """
    missing = shared.submit("typed", {})
    unknown = shared.submit("typed", {"n": 1, "surplus": 2})
    wrong = shared.submit("typed", {"n": "many"})
    fits = shared.submit("typed", {"n": 12})
    shared.until_state("dead", missing, unknown, wrong)
    shared.until_state("completed", fits)
    for task_id, name in ((missing, "n"), (unknown, "surplus"), (wrong, "n")):
        [failure] = shared.failures(task_id)
        assert failure["error_type"] == "ArgsInvalid"
        assert f"typed: args.{name}: " in failure["error_message"]
        assert shared.started(task_id) == []
    assert shared.task(fits)["result"]["n"] == 12


def test_an_exception_is_a_failure_with_its_traceback(shared: Stage) -> None:
    """Each attempt leaves a failure with type, message and a traceback that begins in the handler;
    after the last one the task is dead.
    """
    task_id = shared.submit("boom", {"message": "with a \u2603"})
    shared.until_state("dead", task_id)
    failures = shared.failures(task_id)
    assert [failure["attempt"] for failure in failures] == [1, 2]
    for failure in failures:
        assert (failure["error_type"], failure["error_message"]) == ("ValueError", "with a \u2603")
        assert "in boom" in failure["traceback"]
        assert "peers/worker" not in failure["traceback"]


@pytest.mark.parametrize("kind", ["mute", "async.mute"])
def test_an_error_that_cannot_say_what_it_is_is_still_a_failure(shared: Stage, kind: str) -> None:
    """An exception whose text raises ends its attempt like any other, and its worker lives on."""
    task_id = shared.submit(kind)
    shared.until_state("dead", task_id)
    [failure] = shared.failures(task_id)
    assert "Mute" in failure["error_type"]


@pytest.mark.parametrize("kind", ["odd", "async.odd"])
@pytest.mark.parametrize("what", ["syntax", "name", "retry"])
def test_an_error_that_is_hard_to_describe_is_still_a_failure(
    shared: Stage, kind: str, what: str
) -> None:
    """Each of its attempts has its failure in the database, and the peer goes on."""
    task_id = shared.submit(kind, {"what": what})
    shared.until_state("dead", task_id)
    assert len(shared.failures(task_id)) == 1
    assert len(shared.peers[0].events("peer_joined")) == 1


def test_a_handler_that_wants_to_exit_fails_alone(shared: Stage) -> None:
    """SystemExit in a handler is a failure of its task; it does not end the worker."""
    before = shared.peers[0].events("worker_died")
    task_id = shared.submit("exits")
    shared.until_state("dead", task_id)
    assert shared.failures(task_id)[0]["error_type"] == "SystemExit"
    assert shared.peers[0].events("worker_died") == before


def test_a_text_that_postgres_cannot_hold_does_not_lose_the_failure(shared: Stage) -> None:
    """NUL and lone surrogates in an error's message are written visibly."""
    task_id = shared.submit("boom", {"message": "x"}, max_attempts=1)
    odd = shared.submit("returns", {"what": "no such key \ud83d\ude00"})
    shared.until_state("dead", task_id, odd)
    assert shared.failures(odd)[0]["error_type"] == "KeyError"


def test_retry_is_at_the_time_that_the_handler_says(shared: Stage) -> None:
    """Retry(in_=0) runs again at once and counts; Retry(in_=3600) waits for an hour."""
    at_once = shared.submit("retries", {"seconds": 0})
    later = shared.submit("retries", {"seconds": 3600})
    shared.until_state("dead", at_once)
    assert [failure["error_type"] for failure in shared.failures(at_once)] == ["Retry"] * 3
    shared.until_state("scheduled", later)
    wait = shared.row(
        "select extract(epoch from scheduled_at - peers.now()) as wait"
        " from peers.task where id = %s",
        later,
    )["wait"]
    assert 3500 < wait <= 3600
    shared.db.execute("select peers.cancel(%s)", (later,))


@pytest.mark.parametrize("kind", ["snoozes", "async.snoozes"])
def test_a_snoozed_task_gives_its_slot_to_others(shared: Stage, kind: str) -> None:
    """However often it is snoozed: its only attempt is not used up, and nothing has failed."""
    gate = shared.gate(f"of {kind}")
    patient = shared.submit(kind, {"gate": gate})
    shared.until_true("select stopped_because is not null from peers.task where id = %s", patient)
    others = [shared.submit("noop", {"n": n}) for n in range(5)]
    shared.until_state("completed", *others)
    shared.open(gate)
    shared.until_state("completed", patient)
    assert shared.task(patient)["attempt"] == 1
    assert shared.failures(patient) == []


def test_a_rejected_task_is_dead_at_once(shared: Stage) -> None:
    """Reject ends a task after one attempt, with its reason."""
    task_id = shared.submit("rejects", {"reason": "the file is empty"})
    shared.until_state("dead", task_id)
    [failure] = shared.failures(task_id)
    assert (failure["error_type"], failure["error_message"]) == ("Reject", "the file is empty")


@pytest.mark.parametrize("kind", ["rollup", "async.rollup"])
def test_a_child_reads_the_results_of_its_parents(shared: Stage, kind: str) -> None:
    """Sync and async handlers alike get every parent's result, and start after all of them."""
    parents = [shared.submit("noop", {"n": n}) for n in (1, 20, 300)]
    child = shared.submit(kind, depends_on=parents)
    shared.until_state("completed", child)
    result = shared.task(child)["result"]
    assert result["n"] == 321
    if kind == "rollup":
        assert result["parents"] == [[parent, "noop", "completed"] for parent in parents]


def test_a_handler_knows_its_own_task(shared: Stage) -> None:
    """current_task() gives id, kind, attempt, token and what is left of the timeout."""
    task_id = shared.submit("about", timeout="30 s")
    shared.until_state("completed", task_id)
    task = shared.task(task_id)
    seen = task["result"]
    assert (seen["id"], seen["kind"], seen["attempt"]) == (task_id, "about", 1)
    assert seen["token"] == str(task["token"])
    assert 0 < seen["left"] <= 30


def test_a_handler_submits_through_its_peer(shared: Stage) -> None:
    """Inside a handler no operation needs a connection: the peer performs it."""
    task_id = shared.submit("submits")
    shared.until_state("completed", task_id)
    made = shared.task(task_id)["result"]
    shared.until_state("completed", made["alone"], made["first"], made["last"])
    edge = shared.row("select parent_id from peers.dependency where child_id = %s", made["last"])
    assert edge["parent_id"] == made["first"]
    assert made["found"] == [made["last"], made["first"]]
    assert made["cancelled"] == "cancelled"


def test_progress_is_seen_while_the_handler_runs(shared: Stage) -> None:
    """What a handler tells with progress() stands in peers.running until it ends."""
    gate = shared.gate("progress")
    task_id = shared.submit("progress", {"gate": gate})
    shared.until_true(
        "select coalesce((select progress_done = 3 and progress_total = 7"
        " from peers.running where task_id = %s), false)", task_id,
    )  # fmt: skip
    shared.open(gate)
    shared.until_state("completed", task_id)
    assert shared.rows("select 1 from peers.running where task_id = %s", task_id) == []


def test_memory_that_is_refused_is_an_ordinary_failure(shared: Stage) -> None:
    """A handler that runs into a memory limit fails with MemoryError, once: where it ran after
    others, it had been given another chance in a fresh worker.
    """
    task_id = shared.submit("hog")
    shared.until_state("dead", task_id)
    assert shared.failures(task_id)[0]["error_type"] == "MemoryError"


def test_all_of_this_has_left_the_books_in_order(shared: Stage) -> None:
    """After all the tests above (or any one): nothing lost, nothing twice, no child early."""
    shared.until_ended()
    shared.assert_clean()
