"""Claims of limited tasks that begin where the last one ended: nothing is lost, little is read."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.sql.limit_scenarios import Claimed, accounts, claim_limited, limit
from tests.sql.test_limits_randomized import EVERY_PLACE
from tests.support.world import Patch, Peer, World, apply_patches, problems, run, submit, value

if TYPE_CHECKING:
    from collections.abc import Iterator

RESUME: Final = "47_resume_limited.sql"
FIND: Final = "48_find_keys.sql"
READ: Final = "48_read_keys.sql"
CLAIM: Final = "49_claim_under_limits.sql"
MANY: Final = (
    "insert into peers.task (kind, args) select 'a', jsonb_build_object('account', %s::integer)"
    " from generate_series(1, %s)"
)
KNOWN: Final = 64
"""Of a key with so many claimed tasks the peer uses the place."""


class LimitedClaimant:
    """A peer that remembers where its last claim ended, as a real one does."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.resume: str | None = None
        self.waits: str | None = None

    def claim(self, free: int) -> Claimed:
        """Claim once."""
        found = claim_limited(self.peer, free, 1000, limited_resume=self.resume)
        self.resume, self.waits = found.last["limited_resume"], found.last["waits"]
        return found

    def finish(self, free: int) -> list[int]:
        """Claim once, complete what there was, and return it."""
        found = self.claim(free)
        if found.claims:
            assert self.peer.complete(*found.claims) == {}
        return found.ids

    def look_in(self, span: str) -> None:
        """Set when a claim looks before the places."""
        query = (
            "select row(clock_timestamp() + %s::interval, r.kinds, r.ranks, r.keys, r.priorities,"
            " r.positions, r.tasks)::peers.limited_resume"
            " from (select (%s::peers.limited_resume).*) r"
        )
        self.resume = value(self.peer.db, query, span, self.resume)

    def entries_read(self, free: int) -> int:
        """Claim and complete, and return how many entries of the index the claim has read."""
        query = "select pg_stat_get_xact_tuples_returned('peers.ready_limited_pkey'::regclass)"
        with self.peer.db.transaction():
            before: int = value(self.peer.db, query)
            found = self.claim(free)
            read: int = value(self.peer.db, query) - before
        assert len(found.ids) == free
        assert self.peer.complete(*found.claims) == {}
        return read


@contextmanager
def old_snapshot(world: World) -> Iterator[None]:
    """Keep vacuum and claims from removing what is deleted from now on."""
    session = world.connect()
    with session.transaction():
        run(session, "set transaction isolation level repeatable read")
        run(session, "select count(*) from peers.task")
        yield


# ------------------------------------------------------------------------------ what a claim reads


def one_key_is_read_from_its_place(world: World) -> None:
    """With an old snapshot a claim reads as much after 3,000 tasks of its key as at first."""
    limit(world.db, max_running=1000)
    run(world.db, MANY, 1, 4000)
    peer = LimitedClaimant(world.peer())
    with old_snapshot(world):
        reads = [peer.entries_read(150) for _ in range(20)]
    assert max(reads[1:]) < 2 * 150


def emptied_keys_are_passed(world: World) -> None:
    """Nor do 20 keys that had 100 tasks each cost the claim of another key more than a look."""
    limit(world.db, key="account", max_running=1000)
    peer = LimitedClaimant(world.peer())
    with old_snapshot(world):
        for account in range(20):
            run(world.db, MANY, account, 100)
            assert len(peer.finish(100)) == 100
        run(world.db, MANY, 20, 100)
        assert max(peer.entries_read(10) for _ in range(5)) < 200


def a_fair_key_is_read_from_its_place(world: World) -> None:
    """Also under two limits, of which one is fair."""
    limit(world.db, key="account", max_running=1000, fair=True)
    limit(world.db, "queue", kind=None, queue="default", max_running=1000)
    run(world.db, MANY, 1, 3000)
    peer = LimitedClaimant(world.peer())
    with old_snapshot(world):
        reads = [peer.entries_read(150) for _ in range(15)]
    assert max(reads[1:]) < 2 * 150


# ----------------------------------------------------------------------- what a claim must not miss


def with_a_place(world: World) -> LimitedClaimant:
    """Return a peer that has a place for the key of account 1, and a backlog of 20 tasks."""
    run(world.db, MANY, 1, KNOWN + 20)
    peer = LimitedClaimant(world.peer())
    assert len(peer.finish(KNOWN)) == KNOWN
    return peer


def a_late_task_is_found_by_a_claim_that_leaves_slots_free(world: World) -> None:
    """It is committed after tasks behind it were claimed."""
    application = world.connect()
    limit(world.db, key="account", max_running=1000)
    with application.transaction():
        [late] = accounts(application, 1)
        peer = with_a_place(world)
    assert late not in peer.finish(10)
    found: list[int] = []
    for _ in range(100):
        found += peer.finish(20)
    assert found[-1] == late


def a_late_task_is_found_after_ten_seconds(world: World) -> None:
    """Though every claim gets all that it wants."""
    application = world.connect()
    limit(world.db, key="account", max_running=1000)
    with application.transaction():
        [late] = accounts(application, 1)
        peer = with_a_place(world)
    assert late not in peer.finish(1)
    peer.look_in("-11 s")
    assert late not in peer.finish(1)
    assert peer.finish(1) == [late]


def urgent_tasks_and_other_keys_are_seen_at_once(world: World) -> None:
    """Priorities before and behind the known one, and unknown keys on either side of known ones."""
    limit(world.db, key="account", max_running=1000)
    peer = with_a_place(world)
    urgent = accounts(world.db, 1, 1, priority=7) + accounts(world.db, 2, priority=50)
    assert [peer.finish(1) for _ in range(3)] == [[each] for each in urgent]
    behind = accounts(world.db, 1, priority=200)
    others = accounts(world.db, *range(2, 20))
    found = peer.finish(19 + 19)
    assert set(others) < set(found)
    found += peer.finish(100)
    assert found[-1:] == behind


def an_urgent_task_of_a_fair_key_is_seen_at_once(world: World) -> None:
    """The keys of a fair limit have tasks of all priorities."""
    limit(world.db, key="account", max_running=1000, fair=True)
    peer = with_a_place(world)
    urgent = accounts(world.db, 1, priority=7)
    behind = accounts(world.db, 1, priority=200)
    assert peer.finish(1) == urgent
    assert peer.finish(100)[-1:] == behind


def tasks_that_become_ready_again_are_seen(world: World) -> None:
    """They wait behind the place of their key."""
    limit(world.db, key="account", max_running=1000)
    peer = with_a_place(world)
    failed, released = peer.claim(2).claims
    assert peer.peer.fail(failed, retry_in=0) == {}
    assert peer.peer.release(released) == {}
    assert peer.claim(100).ids[-2:] == [failed.task_id, released.task_id]


def a_locked_task_is_found_later(world: World) -> None:
    """A claim has passed over it."""
    limit(world.db, max_running=1000)
    locked = submit(world.db)
    run(world.db, MANY, 1, KNOWN + 1)
    peer, application = LimitedClaimant(world.peer()), world.connect()
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", locked)
        assert locked not in peer.finish(KNOWN)
    assert locked not in peer.finish(1)
    world.until(lambda: peer.finish(1) == [locked], "a look before the place")


SCENARIOS: Final = (
    one_key_is_read_from_its_place,
    emptied_keys_are_passed,
    a_fair_key_is_read_from_its_place,
    a_late_task_is_found_by_a_claim_that_leaves_slots_free,
    a_late_task_is_found_after_ten_seconds,
    urgent_tasks_and_other_keys_are_seen_at_once,
    an_urgent_task_of_a_fair_key_is_seen_at_once,
    tasks_that_become_ready_again_are_seen,
    a_locked_task_is_found_later,
)

NO_LOOK: Final = Patch(
    RESUME,
    "and k.tasks >= peers._least_known()\n            order by y.position",
    "and false order by y.position",
)
VARIANTS: Final = {
    "no key has a place": (
        one_key_is_read_from_its_place,
        Patch(RESUME, "immutable return 64", "immutable return 1000000"),
    ),
    "a claim looks for the first rank": (
        one_key_is_read_from_its_place,
        Patch(FIND, "smallint[] := peers._known_ranks(_resume, _rules.kind)", "smallint[] := '{}'"),
    ),
    "known keys without tasks are read": (
        emptied_keys_are_passed,
        Patch(RESUME, "immutable return 64", "immutable return 1000000"),
    ),
    "a claim never looks before the places": (
        a_late_task_is_found_after_ten_seconds, NO_LOOK
    ),
    "a claim that leaves slots free does not look": (
        a_late_task_is_found_by_a_claim_that_leaves_slots_free,
        Patch(CLAIM, "case when _found.slots_left then '0' else", "case when false then '0' else"),
    ),
    "smaller priorities of a fair key are not read": (
        an_urgent_task_of_a_fair_key_is_seen_at_once,
        Patch(READ, "_rules.fair_at is not null and", "false and", times=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_what_must_hold_holds(world: World, scenario: object) -> None:
    """See the scenario's own docstring."""
    scenario(world)  # type: ignore[operator]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_safeguard_is_needed(world: World, name: str) -> None:
    """The scenario fails without it."""
    scenario, patch = VARIANTS[name]
    apply_patches(world.db, [patch])
    with pytest.raises(AssertionError):
        scenario(world)


def test_a_peer_keeps_few_places(world: World) -> None:
    """Those that it has claimed from last."""
    limit(world.db, key="account", max_running=1)
    accounts(world.db, *range(150))
    peer = LimitedClaimant(world.peer())
    done = 0
    while done < 150:
        done += len(peer.finish(30))
        assert (
            value(world.db, "select cardinality((%s::peers.limited_resume).keys)", peer.resume)
            <= 100
        )


# ---------------------------------------------------------------------------------- at random


class History:
    """Peers that claim, and applications that submit and commit late, one step after another."""

    def __init__(self, world: World, seed: int) -> None:
        self._luck = random.Random(seed)
        self._world = world
        self._applications = [world.connect() for _ in range(3)]
        self._peers = [LimitedClaimant(world.peer()) for _ in range(2)]

    def _submit(self) -> None:
        application = self._luck.choice(self._applications)
        priority = self._luck.choice((100, 100, 100, 50, 7))
        accounts(application, *self._luck.choices(range(4), k=5), priority=priority)

    def _begin_or_commit(self) -> None:
        application = self._luck.choice(self._applications)
        if application.info.transaction_status == 0:
            run(application, "begin")
        else:
            run(application, "commit")

    def _claim(self) -> None:
        peer = self._luck.choice(self._peers)
        found = peer.claim(self._luck.randint(1, 9))
        for claim in found.claims:
            fate = self._luck.random()
            if fate < 0.1:
                assert peer.peer.fail(claim, retry_in=0) == {}
            elif fate < 0.2:
                assert peer.peer.release(claim) == {}
            else:
                assert peer.peer.complete(claim) == {}
        if not found.claims and peer.waits is None:
            assert value(self._world.db, READY) == 0, "a claim has missed tasks"

    def run(self, steps: int) -> None:
        """Do this many steps at random, then let the peers finish."""
        doings = (self._submit, self._begin_or_commit, self._claim, self._claim)
        for _ in range(steps):
            self._luck.choice(doings)()
        for application in self._applications:
            if application.info.transaction_status != 0:
                run(application, "commit")
        for _ in range(1000):
            self._claim()
            if value(self._world.db, READY) == 0:
                return
        raise AssertionError("tasks are left")


READY: Final = "select count(*) from peers.task where state = 'ready'"


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_task_is_missed(world: World, seed: int, fair: bool) -> None:
    """A claim that brings nothing, and asks for no other one, has left no ready task."""
    apply_patches(world.db, [EVERY_PLACE])
    limit(world.db, key="account", max_running=1000, fair=fair)
    History(world, seed).run(150)
    assert problems(world.db) == []


def test_tasks_are_missed_without_a_look(world: World) -> None:
    """The history before notices it."""
    apply_patches(world.db, [EVERY_PLACE, NO_LOOK])
    limit(world.db, key="account", max_running=1000)
    history = History(world, 0)
    with pytest.raises(AssertionError, match=r"missed|left"):
        history.run(450)
