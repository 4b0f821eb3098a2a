"""Cornering the poison of a batch: by its worker when a call raises, by the peer when it kills."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from math import ceil, log2
from uuid import uuid4

import pytest

from peers.context import CurrentTask
from peers.database.rows import Claimed
from peers.handlers import Handler, register
from peers.pool import crash as verdicts
from peers.pool.crash import Death, Out, judge
from peers.pool.durations import DurationEstimate
from peers.pool.local_queue import Lease, LocalQueue
from peers.protocol.messages import Assigned, Completed, Failed
from peers.worker.batch import Batch, Part

KIND = "unit.batch"
SIZES = [1, 2, 3, 64, 257]


class Poisoned(Exception):  # noqa: N818 - a name says what is the matter
    """What the handler raises when it meets poison."""


def handler(rows: list[dict[str, int]]) -> list[int]:
    """Never called: the tests call for it."""
    return [row["n"] for row in rows]


@pytest.fixture(autouse=True)
def _known() -> None:
    register(Handler(KIND, handler, batch_size=1000))


def run_batch(batch: Batch, poison: set[int]) -> tuple[dict[int, Completed | Failed], int]:
    """Every outcome by its ticket, and the number of calls."""
    outcomes: dict[int, Completed | Failed] = {}
    calls = 0
    while (part := batch.next()) is not None:
        calls += 1
        if poison & {member["n"] for member in part.args}:
            batch.raised(part, Poisoned())
        else:
            batch.returned(part, [member["n"] for member in part.args])
        for outcome in batch.take_outcomes():
            assert outcome.ticket not in outcomes, "an outcome was told twice"
            outcomes[outcome.ticket] = outcome
    return outcomes, calls


def assigned(size: int) -> list[Assigned]:
    """Tasks whose ticket is their number + 1."""
    return [Assigned(n + 1, n + 1, b"token", 1, KIND, b'{"n": %d}' % n, None) for n in range(size)]


def current(task: Assigned) -> CurrentTask:
    """Nothing but who it is."""
    return CurrentTask(task.task_id, KIND, 1, "token", None, task.ticket, None)  # type: ignore[arg-type]  # it asks nobody


def wrong_after_raising(kind: type[Batch], size: int, culprits: int, seed: int) -> str | None:
    """What is not as it should be; None when only the culprits failed, within the bound."""
    poison = set(random.Random(seed).sample(range(size), min(culprits, size)))
    outcomes, calls = run_batch(kind(assigned(size), current), poison)
    if outcomes.keys() != set(range(1, size + 1)):
        return "tasks were lost"
    failed = {ticket - 1 for ticket, one in outcomes.items() if isinstance(one, Failed)}
    if failed != poison:
        return f"{failed} failed, and not {poison}"
    bound = 1 + len(poison) * 2 * ceil(log2(size)) if size > 1 else 1
    return None if calls <= bound else f"{calls} calls, and at most {bound} are needed"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("culprits", [0, 1, 3])
def test_what_raises_is_cornered_in_few_calls(size: int, culprits: int) -> None:
    """Exactly the culprits fail, everybody is told once, in about 2·log₂(n) calls for each."""
    assert wrong_after_raising(Batch, size, culprits, seed=size) is None


class Undivided(Batch):
    """A broken variant: one takes all along."""

    def raised(self, part: Part, error: BaseException, describe: object = None) -> None:
        del describe
        self._fail(part, error)


class Forgetful(Batch):
    """A broken variant: the odd one is left out of both halves."""

    def raised(self, part: Part, error: BaseException, describe: object = None) -> None:
        del describe
        if len(part.members) == 1:
            self._fail(part, error)
            return
        middle = len(part.members) // 2
        halves = [part.members[middle : 2 * middle], part.members[:middle]]
        self._waiting += [half for half in halves if half]


@pytest.mark.parametrize("broken", [Undivided, Forgetful])
def test_broken_ways_to_divide_are_caught(broken: type[Batch]) -> None:
    """By the same test."""
    assert any(wrong_after_raising(broken, size, 1, seed) for size in SIZES for seed in range(5))


# --------------------------------------------------------------------------------- it kills


Judge = Callable[..., None]


def wrong_after_deaths(judge: Judge, size: int, culprits: int, seed: int) -> str | None:
    """The same for poison that kills: each part goes to a fresh worker until all is judged."""
    tickets = count(1)
    poison = set(random.Random(seed).sample(range(size), min(culprits, size)))
    local_queue = LocalQueue("default", 1, DurationEstimate(), {})
    leases = [
        Lease(Claimed(n, uuid4(), 1, KIND, b"{}", None, 100), b"", "default", 0.0, 100)
        for n in range(size)
    ]
    waiting, done, failed, deaths = [leases], set[int](), set[int](), 0
    while waiting:
        part = waiting.pop()
        numbers = {lease.task.task_id for lease in part}
        if not numbers & poison:
            done |= numbers
            continue
        deaths += 1
        first = next(tickets)
        outs = {first: Out(part[0], local_queue, 0.0, first)}
        outs |= {next(tickets): Out(lease, local_queue, 0.0, first) for lease in part[1:]}
        death = Death("SIGSEGV", None)
        judge(death, outs, range(first, first + len(part)), float("inf"), "crash", "it died")
        failed |= {lease.task.task_id for lease, _ in death.failed}
        waiting += death.divided
        if death.aborted or death.unstarted:
            return "innocents were given back"
    if failed != poison or done != set(range(size)) - poison:
        return f"{failed} failed, and not {poison}; {len(done)} were done"
    bound = len(poison) * (ceil(log2(size)) + 1) if size > 1 else len(poison)
    return None if deaths <= bound else f"{deaths} workers died, and at most {bound} need to"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("culprits", [0, 1, 3])
def test_what_kills_is_cornered_in_few_deaths(size: int, culprits: int) -> None:
    """Exactly the culprits fail; a worker dies log₂(n) + 1 times for each at most."""
    assert wrong_after_deaths(judge, size, culprits, seed=size) is None


def test_a_judge_who_blames_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken variant: whoever was in the call is guilty of its death."""

    def harsh(death: Death, outs: dict[int, Out], *_: object) -> None:
        death.failed.extend((out.lease, {}) for out in outs.values())

    monkeypatch.setattr(verdicts, "judge", harsh)
    assert wrong_after_deaths(verdicts.judge, 64, 1, seed=1)


def test_what_waits_behind_a_death_has_not_been_started() -> None:
    """It keeps its lease and is handed out again; what was finished before is given back."""
    local_queue = LocalQueue("default", 1, DurationEstimate(), {})
    leases = [
        Lease(Claimed(n, uuid4(), 1, KIND, b"{}", None, 100), b"", "default", 0.0, 100)
        for n in range(3)
    ]
    outs = {n + 1: Out(lease, local_queue, 0.0, n + 1) for n, lease in enumerate(leases)}
    death = Death("SIGKILL", None)
    judge(death, outs, range(2, 3), 3, "crash", "it died")
    assert [lease for lease, _ in death.failed] == [leases[1]]
    assert death.unstarted == [leases[2]]
    assert death.aborted == [leases[0]]
