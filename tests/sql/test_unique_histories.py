"""Random histories of sessions that share unique keys, beside a model of what each call returns.

Three sessions each submit (or cancel) in a transaction that stays open for a while; meanwhile a
peer claims, completes and fails, the clock moves, and maintenance prunes. A call that waits for
another session is checked when it returns.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from tests.support.unique import Answer, submit_unique
from tests.support.world import (
    Claim,
    Peer,
    advance,
    column,
    problems,
    promote,
    result,
    rows,
    run,
    value,
)

if TYPE_CHECKING:
    from concurrent.futures import Future
    from uuid import UUID

    from tests.support.server import Connection
    from tests.support.world import World

SESSIONS: Final = 3
KEYS: Final = ("x", "y")
WAITING: Final = ("blocked", "scheduled", "ready")
UNFINISHED: Final = (*WAITING, "running")
# Minutes: what a busy machine adds to them is too little to be mistaken for one.
INTERVAL: Final = timedelta(minutes=20)
WAIT: Final = timedelta(minutes=10)
MAX_WAIT: Final = timedelta(minutes=25)
SLACK: Final = timedelta(minutes=2)

submissions: st.SearchStrategy[dict[str, str]] = st.builds(
    dict,
    key=st.sampled_from(KEYS),
    unique_while=st.sampled_from(["waiting", "waiting", "unfinished", "20 minutes"]),
    on_duplicate=st.sampled_from(["keep", "replace", "debounce"]),
)
steps = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, SESSIONS - 1), submissions),
    st.tuples(st.just("submit"), st.integers(0, SESSIONS - 1), submissions),
    st.tuples(st.just("cancel"), st.integers(0, SESSIONS - 1), st.integers(0, 9)),
    st.tuples(st.sampled_from(["commit", "commit", "rollback"]), st.integers(0, SESSIONS - 1)),
    st.tuples(st.just("claim"), st.integers(1, 2)),
    st.tuples(st.sampled_from(["complete", "fail", "reject", "release"]), st.integers(0, 9)),
    st.tuples(st.just("advance"), st.sampled_from([7, 11, 13])),
    st.tuples(st.sampled_from(["promote", "retry", "prune"])),
)
histories = st.lists(steps, min_size=5, max_size=40)


def submission(session: int, on_duplicate: str) -> tuple[Any, ...]:
    """A submission of one session with the key x."""
    return (
        "submit",
        session,
        {"key": "x", "unique_while": "waiting", "on_duplicate": on_duplicate},
    )


EVERY_ANSWER: Final[list[tuple[Any, ...]]] = [
    submission(0, "keep"), ("commit", 0),
    submission(1, "keep"), ("commit", 1),
    submission(2, "replace"), submission(0, "keep"), ("commit", 2), ("commit", 0),
]  # fmt: skip
"""A history that has each kind of answer: random ones need not."""


@dataclass
class Session:
    """A session with at most one call in its transaction."""

    db: Connection
    options: dict[str, Any] = field(default_factory=dict)
    call: Future[Any] | None = None
    is_open: bool = False
    expected: dict[str, Any] | None = None
    """The fields of the task that the commit must show."""
    cancels: int | None = None
    """The task that its transaction cancels."""


class History:
    """One history: it performs steps and compares each answer with the model."""

    def __init__(
        self, world: World, sessions: list[Connection], kind: str, seen: Counter[str]
    ) -> None:
        self.world = world
        self.observer = world.db
        self.kind = kind
        self.sessions = [Session(db) for db in sessions[:SESSIONS]]
        self.peer = Peer.join(sessions[-1], kind, lease="1 day")
        self.running: list[Claim] = []
        self.seen = seen
        self.numbers = itertools.count(1)
        self.must_run: dict[int, int] = {}
        """By task: the newest args that were committed, and that its next attempt must have."""

    def step(self, name: str, *arguments: Any) -> None:
        """Perform one step, and check the calls that return because of it."""
        getattr(self, name)(*arguments)
        for session in self.sessions:
            self.observe(session)

    # ------------------------------------------------------------------------------------ sessions

    def submit(self, number: int, choice: dict[str, str]) -> None:
        session = self.sessions[number]
        if session.is_open:
            return
        options: dict[str, Any] = {**choice, "args": {"n": next(self.numbers)}}
        if options["on_duplicate"] == "debounce":
            options |= {"unique_while": "waiting", "wait": WAIT, "max_wait": MAX_WAIT}
        self.begin(session, options)
        key = options.pop("key")
        session.call = self.world.background(submit_unique, session.db, key, self.kind, **options)
        session.options["key"] = key

    def cancel(self, number: int, which: int) -> None:
        session = self.sessions[number]
        known = column(self.observer, "select id from peers.task where kind = %s order by id",
                       self.kind)  # fmt: skip
        if session.is_open or not known:
            return
        self.begin(session, {})
        session.cancels = known[which % len(known)]
        session.call = self.world.background(
            run, session.db, "select peers.cancel(%s)", session.cancels
        )

    def begin(self, session: Session, options: dict[str, Any]) -> None:
        run(session.db, "begin")
        session.is_open, session.options, session.expected = True, dict(options), None
        session.cancels = None

    def commit(self, number: int) -> None:
        session = self.sessions[number]
        if not session.is_open or session.call is not None:
            return
        run(session.db, "commit")
        session.is_open = False
        if session.expected is not None:
            task = self.task(session.expected["id"])
            assert task is not None
            assert task["args"] == session.expected["args"]
            assert (task["attempt"], task["state"]) == (0, session.expected["state"])
            due = session.expected["due"]
            assert due is None or abs(task["scheduled_at"] - due) < SLACK
            self.must_run[task["id"]] = task["args"]["n"]

    def rollback(self, number: int) -> None:
        session = self.sessions[number]
        if session.is_open and session.call is None:
            run(session.db, "rollback")
            session.is_open = False

    def observe(self, session: Session) -> None:
        """Check the answer of a call as soon as it returns. Nothing of it is committed yet."""
        if session.call is None:
            return
        self.world.until_waiting_or_done(session.db, session.call)
        if not session.call.done():
            self.seen["waits"] += 1
            return
        answer = result(session.call)
        session.call = None
        if isinstance(answer, Answer):
            self.compare(session, answer)

    # --------------------------------------------------------------------------------- the model

    def compare(self, session: Session, answer: Answer) -> None:
        """Compare an answer with what the committed state says."""
        options, now = session.options, self.now()
        key = rows(self.observer, "select * from peers.unique_key where kind = %s and key = %s",
                   self.kind, options["key"])  # fmt: skip
        holder = self.task(key[0]["task_id"]) if key else None
        due = None
        if key and self.holds(key[0], holder, options["unique_while"], now):
            is_waiting = holder is not None and holder["state"] in WAITING
            replaced = options["on_duplicate"] != "keep" and is_waiting
            self.seen["replaced" if replaced else "kept"] += 1
            assert answer == Answer(key[0]["task_id"], is_new=False, replaced=replaced)
            if not replaced:
                return
            assert holder is not None
            if options["on_duplicate"] == "debounce":
                since = now if holder["attempt"] > 0 else key[0]["since"]
                due = min(now + WAIT, max(now, since + MAX_WAIT))
        else:
            self.seen["new"] += 1
            assert (answer.is_new, answer.replaced) == (True, False)
            assert self.task(answer.id) is None
            if options["on_duplicate"] == "debounce":
                due = now + WAIT
        session.expected = {
            "id": answer.id, "args": options["args"], "due": due,
            "state": "ready" if due is None or due <= now else "scheduled",
        }  # fmt: skip

    def holds(self, key: dict[str, Any], task: dict[str, Any] | None, rule: str, now: Any) -> bool:
        state = None if task is None else task["state"]

        def by(unique_while: str, until: Any) -> bool:
            if unique_while == "waiting":
                return state in WAITING
            if unique_while == "unfinished":
                return state in UNFINISHED
            return bool(until > now)

        return by(key["unique_while"], key["until"]) and by(rule, key["since"] + INTERVAL)

    def task(self, task_id: int) -> dict[str, Any] | None:
        found = rows(self.observer, "select * from peers.task where id = %s", task_id)
        return found[0] if found else None

    def now(self) -> Any:
        return value(self.observer, "select peers.now()")

    # ----------------------------------------------------------------------------------- the peer

    def claim(self, most: int) -> None:
        for claim in self.peer.claim(most):
            assert claim.args["n"] == self.must_run.get(claim.task_id)
            self.running.append(claim)

    def pop(self, which: int) -> list[Claim]:
        return [self.running.pop(which % len(self.running))] if self.running else []

    def complete(self, which: int) -> None:
        for claim in self.pop(which):
            self.check_recorded(claim, self.peer.complete(claim))

    def fail(self, which: int) -> None:
        for claim in self.pop(which):
            self.check_recorded(claim, self.peer.fail(claim, retry_in=60 * (which % 3) * 9))

    def reject(self, which: int) -> None:
        for claim in self.pop(which):
            self.check_recorded(claim, self.peer.fail(claim, reject=True))

    def release(self, which: int) -> None:
        for claim in self.pop(which):
            self.check_recorded(claim, self.peer.release(claim))

    def check_recorded(self, claim: Claim, verdicts: dict[tuple[int, UUID], str]) -> None:
        """An outcome waits for no submission, only for a transaction that cancels its task."""
        cancelled = {session.cancels for session in self.sessions if session.is_open}
        if verdicts and claim.task_id in cancelled:
            assert set(verdicts.values()) == {"busy"}
            self.running.append(claim)
        else:
            assert verdicts == {}, "an outcome had to wait for a submission"

    def advance(self, minutes: int) -> None:
        advance(self.observer, f"{minutes} minutes")
        self.peer.heartbeat()

    def promote(self) -> None:
        promote(self.observer)

    def retry(self) -> None:
        query = "select peers.retry(task_id) from peers.dead where kind = %s"
        run(self.observer, query, self.kind)

    def prune(self) -> None:
        run(self.observer, "select * from peers.prune('0 s')")

    def end(self) -> None:
        """End all transactions; what was committed and not cancelled runs with its newest args."""
        while any(session.is_open for session in self.sessions):
            for number in range(SESSIONS):
                self.step("commit", number)
        for claim in self.running:
            self.peer.complete(claim)
        self.advance(12 * 60)
        while promote(self.observer):
            pass
        while claims := self.peer.claim():
            for claim in claims:
                assert claim.args["n"] == self.must_run[claim.task_id]
            self.peer.complete(*claims)
        left = "select id from peers.task where kind = %s and state = any (%s::peers.task_state[])"
        assert column(self.observer, left, self.kind, list(UNFINISHED)) == []
        assert problems(self.observer) == []


def play(world: World, examples: int) -> Counter[str]:
    """Play that many random histories, and return what was seen in them."""
    sessions = [world.connect() for _ in range(SESSIONS + 1)]
    kinds = (f"kind {n}" for n in itertools.count())
    seen = Counter[str]()

    @settings(max_examples=examples, database=None)
    @given(histories)
    @example(EVERY_ANSWER)
    def check(history: list[tuple[Any, ...]]) -> None:
        played = History(world, sessions, next(kinds), seen)
        try:
            for name, *arguments in history:
                note(f"{name} {arguments}")
                played.step(name, *arguments)
            played.end()
        finally:
            for session in played.sessions:
                if session.is_open:
                    session.db.cancel()
                    session.db.rollback()

    check()
    return seen


def test_every_answer_is_that_of_the_model(world: World) -> None:
    """Whatever the sessions, the peer, the clock and maintenance do in between."""
    seen = play(world, 40)
    assert {"new", "kept", "replaced", "waits"} <= seen.keys()


def test_other_args_than_the_newest_are_noticed(world: World) -> None:
    """The model compares what the peer claims with what was committed last."""
    sessions = [world.connect() for _ in range(SESSIONS + 1)]
    played = History(world, sessions, "kind", Counter())
    choice = {"key": "x", "unique_while": "waiting", "on_duplicate": "replace"}
    played.step("submit", 0, choice)
    played.step("commit", 0)
    played.must_run = dict.fromkeys(played.must_run, 99)
    with pytest.raises(AssertionError):
        played.step("claim", 1)
