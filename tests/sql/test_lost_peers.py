"""Who is lost, and when: at the end of a lease, after an outage, and by a witness on its host."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.world import (
    LEASE,
    Patch,
    Peer,
    World,
    advance,
    apply_patches,
    problems,
    result,
    row,
    run,
    submit,
    unknown_token,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection

pytestmark = pytest.mark.usefixtures("_stopped_clock")

LEASE_SECONDS: Final = 30
INTERVAL: Final = LEASE_SECONDS / 3
RETRY: Final = LEASE_SECONDS / 6
LONG: Final = "10 min"


def join_on(db: Connection, host_id: str | None, number: int = 1) -> Peer:
    """A peer that runs as process `number` of this host."""
    process = None if host_id is None else {"host_id": host_id, "start": number, "lock": "a"}
    identity = value(
        db,
        "select peers.join('host-a', %s, '{\"default\": 8}', '[{\"kind\": \"a\"}]', %s,"
        " peers.contract_version(), %s)",
        number,
        LEASE,
        None if process is None else json.dumps(process),
    )
    return Peer(db, identity)


def declare_lost(witness: Peer, *lost: Peer) -> list[UUID]:
    """Declare peers lost, and return those that are."""
    query = "select array(select lost_peer_id from peers.declare_lost(%s, %s::uuid[]))"
    declared: list[UUID] = value(witness.db, query, witness.id, [peer.id for peer in lost])
    return declared


def next_reclaim(peer: Peer) -> float:
    """In how many seconds something can be reclaimed."""
    return float(value(peer.db, "select peers.next_reclaim(%s)", peer.id))


# --------------------------------------------------------------------------- the end of the lease


def a_lease_that_ends_is_taken_at_once(world: World) -> None:
    """A peer that joins shortly after another one died takes the tasks when that lease ends."""
    submit(world.db)
    silent = world.peer()
    silent.claim()
    advance(world.db, "3 s")
    fresh = world.peer()
    for passed in (10, 10, 6):
        assert fresh.reclaim() == []
        advance(world.db, f"{passed} s")
        fresh.heartbeat()
    assert 0 < next_reclaim(fresh) <= 1
    assert fresh.reclaim() == []
    advance(world.db, "1 s")
    assert next_reclaim(fresh) == 0
    assert len(fresh.reclaim()) == 1


def a_peer_that_finds_only_old_heartbeats_waits(world: World) -> None:
    """The database may have been away until it joined: each peer gets half a lease to come back."""
    submit(world.db)
    silent = world.peer()
    [claim] = silent.claim()
    advance(world.db, "5 min")
    fresh = world.peer()
    assert fresh.reclaim() == []
    assert 14 < next_reclaim(fresh) <= 15
    fresh.advance_steadily(10)
    assert fresh.reclaim() == []
    silent.heartbeat()
    fresh.advance_steadily(20)
    assert fresh.reclaim() == []
    assert silent.complete(claim) == {}


def a_peer_that_comes_back_first_waits(world: World) -> None:
    """After an outage that is longer than the lease, no peer takes the tasks of another one that is
    about to come back, and neither does one that joins in the meantime.
    """
    submit(world.db)
    first, second = world.peer("other"), world.peer()
    first.advance_steadily(60)
    second.heartbeat()
    [claim] = second.claim()
    advance(world.db, "10 min")
    assert first.reclaim() == []  # its own heartbeat has expired
    first.heartbeat()
    joined = world.peer("other")
    for _ in range(2):
        assert first.reclaim() == []
        assert joined.reclaim() == []
        advance(world.db, "7 s")
        first.heartbeat()
    second.heartbeat()
    advance(world.db, "10 s")
    first.heartbeat()
    assert first.reclaim() == []
    assert second.complete(claim) == {}


def a_peer_that_stays_away_is_lost_after_the_outage(world: World) -> None:
    """After an outage, others wait for half a lease and no longer."""
    submit(world.db)
    first, second = world.peer("other"), world.peer()
    second.claim()
    advance(world.db, "10 min")
    first.heartbeat()
    first.advance_steadily(10)
    assert first.reclaim() == []
    advance(world.db, "6 s")
    assert len(first.reclaim()) == 1


def a_stalled_peer_learns_from_others(world: World) -> None:
    """A peer that was away itself need not wait if another peer had the database meanwhile."""
    submit(world.db)
    stalled, steady, silent = world.peer("other"), world.peer("other"), world.peer()
    silent.claim()
    steady.advance_steadily(60)
    stalled.heartbeat()
    assert len(stalled.reclaim()) == 1


def a_peer_that_joins_learns_from_one_that_leaves(world: World) -> None:
    """A peer that replaces another one continues with what that one knew of the database."""
    submit(world.db)
    silent, steady = world.peer(), world.peer("other")
    silent.claim()
    steady.advance_steadily(20)
    fresh = world.peer("other")
    steady.leave()
    fresh.advance_steadily(10)
    assert len(fresh.reclaim()) == 1


def a_lease_of_a_lost_peer_needs_no_waiting(world: World) -> None:
    """Leases of a peer that was declared lost before are taken by a peer that has just joined."""
    submit(world.db)
    silent, steady = world.peer(), world.peer("other")
    [claim] = silent.claim()
    steady.advance_steadily(40)
    application = world.connect()
    with application.transaction():
        run(application, "select from peers.task for update")
        assert steady.reclaim() == []
        assert next_reclaim(steady) == 1
    advance(world.db, "5 min")
    fresh = world.peer("other")
    assert [each["task_id"] for each in fresh.reclaim()] == [claim.task_id]


def a_long_lease_overlooks_a_short_outage(world: World) -> None:
    """A minute without the database is nothing to a peer with a lease of ten minutes. It does not
    take the tasks of one whose lease has ended meanwhile.
    """
    submit(world.db)
    patient, brief = world.peer("other", lease=LONG), world.peer()
    patient.advance_steadily(300)
    brief.heartbeat()
    [claim] = brief.claim()
    advance(world.db, "60 s")
    patient.heartbeat()
    assert patient.reclaim() == []
    brief.heartbeat()
    assert brief.complete(claim) == {}


def a_peer_that_joins_does_not_learn_from_a_longer_lease(world: World) -> None:
    """The database may have been away for a minute, and the patient one has not noticed it."""
    submit(world.db)
    patient, brief = world.peer("other", lease=LONG), world.peer()
    patient.advance_steadily(300)
    brief.heartbeat()
    [claim] = brief.claim()
    advance(world.db, "60 s")
    fresh = world.peer("other")
    patient.leave()
    assert fresh.reclaim() == []
    brief.heartbeat()
    assert brief.complete(claim) == {}


def a_dead_peer_is_lost_even_if_only_longer_leases_are_left(world: World) -> None:
    """It takes as long as the longest outage that the others may have overlooked."""
    submit(world.db)
    patient, dead = world.peer("other", lease=LONG), world.peer()
    patient.advance_steadily(300)
    dead.heartbeat()
    dead.claim()
    patient.advance_steadily(310)
    assert patient.reclaim() == []
    assert 0 < next_reclaim(patient) <= 5
    advance(world.db, "6 s")
    assert next_reclaim(patient) == 0
    assert len(patient.reclaim()) == 1


REACHABLE: Final = "40_peers.sql"
RECLAIM: Final = "57_reclaim.sql"
HALF_A_LEASE: Final = Patch(RECLAIM, "least(w.healthy_since, _now) + _lease / 2", "'-infinity'")
RECENT: Final = Patch(
    REACHABLE, "and p.heartbeat_at between _now - p.lease_timeout / 2 and _now", ""
)
OWN_LEASE_ONLY: Final = Patch(
    RECLAIM, "_heartbeat_at + (_lease + w.lease_timeout) / 2", "'-infinity'"
)


class Variant(NamedTuple):
    """SQL without one safeguard, and the property that it breaks."""

    property: Callable[[World], None]
    patches: list[Patch]


PROPERTIES: Final = [
    a_lease_that_ends_is_taken_at_once,
    a_peer_that_finds_only_old_heartbeats_waits,
    a_peer_that_comes_back_first_waits,
    a_peer_that_stays_away_is_lost_after_the_outage,
    a_stalled_peer_learns_from_others,
    a_peer_that_joins_learns_from_one_that_leaves,
    a_lease_of_a_lost_peer_needs_no_waiting,
    a_long_lease_overlooks_a_short_outage,
    a_peer_that_joins_does_not_learn_from_a_longer_lease,
    a_dead_peer_is_lost_even_if_only_longer_leases_are_left,
]
VARIANTS: Final = {
    "a fresh peer believes old heartbeats": Variant(
        a_peer_that_finds_only_old_heartbeats_waits, [RECENT]
    ),
    "a peer that comes back does not wait": Variant(
        a_peer_that_comes_back_first_waits, [HALF_A_LEASE]
    ),
    "a gap does not count": Variant(
        a_peer_that_comes_back_first_waits,
        [Patch(REACHABLE, "when p.heartbeat_at + p.lease_timeout / 2 >= _now", "when true")],
    ),
    "the witness that knows least counts": Variant(
        a_stalled_peer_learns_from_others,
        [Patch(RECLAIM, "select min(greatest(least(", "select max(greatest(least(")],
    ),
    "a witness with a long lease is believed": Variant(
        a_long_lease_overlooks_a_short_outage, [OWN_LEASE_ONLY]
    ),
    "a witness with a long lease is believed by one that joins": Variant(
        a_peer_that_joins_does_not_learn_from_a_longer_lease,
        [Patch(REACHABLE, "p.lease_timeout <= _lease\n           and ", "")],
    ),
    "a fresh peer knows nothing": Variant(
        a_peer_that_joins_learns_from_one_that_leaves,
        [Patch(REACHABLE, "_now, peers._reachable_since(_now, lease_timeout),\n", "_now, _now,\n")],
    ),
}


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda each: each.__name__)
def test_property(world: World, holds: Callable[[World], None]) -> None:
    """Each property holds."""
    holds(world)
    assert problems(world.db) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_safeguard_the_property_fails(world: World, name: str) -> None:
    """Each safeguard is needed."""
    apply_patches(world.db, VARIANTS[name].patches)
    with pytest.raises(AssertionError):
        VARIANTS[name].property(world)


# ------------------------------------------------------------------------- any history of outages


class Step(NamedTuple):
    """The database is away for a while, then there for a while; then somebody moves its clock."""

    away: float
    up: float
    jump: float


class Living:
    """A peer that lives as a real one does: a heartbeat every third of its lease, and a retry
    within a sixth of it after each failure.
    """

    def __init__(self, db: Connection, chance: random.Random, now: float, lease: int) -> None:
        self.lease = lease
        self.peer = Peer.join(db, lease=f"{lease} s")
        self.due = now + chance.uniform(0, lease / 3)
        self._chance = chance

    def after_an_outage(self, now: float) -> None:
        """Be due within the time of a retry, if a heartbeat was missed."""
        if self.due < now:
            self.due = now + self._chance.uniform(0, self.lease / 6 * 0.95)

    def beat(self) -> None:
        """Send a heartbeat: it must be told that it is alive."""
        assert self.peer.heartbeat()["alive"], "a peer was lost that lived and tried in time"
        self.due += self.lease / 3


class History:
    """Peers that live, one that dies, and any outages and clocks."""

    def __init__(self, db: Connection, seed: int) -> None:
        self.db = db
        self.now = 0.0
        self.chance = random.Random(seed)
        self._leases = self.chance.choice(_LEASES)
        self.living = [self._join() for _ in range(3)]

    def _join(self) -> Living:
        return Living(self.db, self.chance, self.now, self.chance.choice(self._leases))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with nothing else."""
        self.now += seconds
        advance(self.db, f"{seconds:.3f} s")

    def live(self, seconds: float) -> None:
        """Let the peers live; each reclaims after its heartbeat."""
        end = self.now + seconds
        while True:
            first = min(self.living, key=lambda each: each.due)
            if first.due > end:
                break
            self.pass_time(max(0.0, first.due - self.now))
            first.beat()
            first.peer.reclaim()
        self.pass_time(end - self.now)

    def play(self, step: Step) -> None:
        """Play a step."""
        self.pass_time(step.away)
        if self.chance.random() < 0.3:  # a peer joins as soon as the database is back
            self.living.append(self._join())
            self.living[-1].due = self.now + self.living[-1].lease / 3
            self.living[-1].peer.reclaim()
        for each in self.living:
            each.after_an_outage(self.now)
        self.live(step.up)
        advance(self.db, f"{step.jump:.3f} s")

    def lose_one(self) -> UUID:
        """Let a peer die, and the others live until they have to see it."""
        dead = self.living.pop(0)
        witness = min(each.lease for each in self.living)
        self.live(max(dead.lease, (dead.lease + witness) / 2) + witness / 3)
        return dead.peer.id


_LEASES: Final = ((LEASE_SECONDS,), (LEASE_SECONDS, 300, 600))
STEPS: Final = st.builds(
    Step,
    away=st.one_of(st.floats(0, 30), st.floats(0, 200)),
    up=st.floats(INTERVAL + RETRY, 60),
    jump=st.one_of(st.just(0.0), st.floats(-300, 300)),
)


HISTORIES: Final = given(steps=st.lists(STEPS, min_size=1, max_size=5), seed=st.integers(0, 1000))


def check_history(world: World, steps: list[Step], seed: int) -> None:
    """Whatever happens, no peer is lost that lives; and one that is dead is lost in time."""
    with world.db.transaction(force_rollback=True):
        history = History(world.db, seed)
        for step in steps:
            history.play(step)
        dead = history.lose_one()
        lost = row(world.db, "select lost_at from peers.peer where id = %s", dead)
        assert lost["lost_at"] is not None, "a dead peer was not lost"


def test_any_history(world: World) -> None:
    """Outages of any length, clocks that are set, peers that join: nobody who lives is lost."""
    settings(max_examples=40)(HISTORIES(check_history))(world)


@pytest.mark.parametrize(
    "patches",
    [[RECENT], [HALF_A_LEASE], [OWN_LEASE_ONLY]],
    ids=["old heartbeats count", "nobody waits", "long leases are believed"],
)
def test_histories_without_a_safeguard(world: World, patches: list[Patch]) -> None:
    """The histories find what the safeguards are for."""
    apply_patches(world.db, patches)
    found = settings(max_examples=40, phases=[Phase.generate])(HISTORIES(check_history))
    with pytest.raises(AssertionError):
        found(world)


# -------------------------------------------------------------------------------------- witnesses


def test_a_witness_frees_leases_at_once(world: World) -> None:
    """A peer on the same host declares a dead one lost, and takes its tasks in the same moment. The
    failure says who saw it.
    """
    submit(world.db)
    dead, witness = join_on(world.connect(), "one"), join_on(world.connect(), "one", 2)
    [claim] = dead.claim()
    assert declare_lost(witness, dead) == [dead.id]
    assert [each["task_id"] for each in witness.reclaim()] == [claim.task_id]
    failure = row(world.db, "select * from peers.failure")
    assert (failure["error_type"], failure["peer_id"]) == ("lost", dead.id)
    assert f"ended (peer {witness.id} on the same host saw it)" in failure["error_message"]
    assert dead.heartbeat()["alive"] is False
    assert dead.complete(claim) == {claim.pair: "stale"}
    assert [again.task_id for again in witness.claim()] == [claim.task_id]
    assert problems(world.db) == []


@pytest.mark.parametrize("host_id", ["two", None])
def test_a_peer_of_another_host_is_no_witness(world: World, host_id: str | None) -> None:
    """Nothing happens to a peer of another host, or of an unknown one."""
    submit(world.db)
    alive, other = join_on(world.connect(), "one"), join_on(world.connect(), host_id)
    [claim] = alive.claim()
    assert declare_lost(other, alive) == []
    assert other.reclaim() == []
    assert declare_lost(alive, other) == []
    assert alive.complete(claim) == {}


def test_two_peers_of_unknown_hosts_are_no_witnesses(world: World) -> None:
    """Two unknown hosts are not the same host."""
    one, other = join_on(world.db, None), join_on(world.db, None)
    assert declare_lost(one, other) == []
    assert other.heartbeat()["alive"] is True


def test_a_lost_peer_is_no_witness(world: World) -> None:
    """A peer that was declared lost declares nobody lost; and nobody declares itself lost."""
    one, other, third = (join_on(world.db, "one", number) for number in range(3))
    assert declare_lost(one, other) == [other.id]
    assert declare_lost(other, third) == []
    assert declare_lost(third, third) == []
    assert third.heartbeat()["alive"] is True


def test_a_peer_that_is_unknown_is_lost_already(world: World) -> None:
    """A witness need not ask again for a peer that left or was declared lost by another."""
    one, other, third = (join_on(world.db, "one", number) for number in range(3))
    other.leave()
    assert declare_lost(one, other) == [other.id]
    assert declare_lost(third, other) == [other.id]


def test_a_peer_without_others_has_nothing_to_reclaim(world: World) -> None:
    """Neither its own lease counts nor lost peers without leases, so that it need not look soon."""
    query = "select peers.next_reclaim(%s)"
    one, other = join_on(world.db, "one"), join_on(world.db, "one")
    assert value(world.db, query, one.id) > 0
    declare_lost(one, other)
    assert value(world.db, query, one.id) is None


def test_siblings(world: World) -> None:
    """The peers of the same host that are not lost, with what recognizes their processes."""
    one, other = join_on(world.db, "one", 11), join_on(world.db, "one", 12)
    join_on(world.db, "two", 13)
    join_on(world.db, None)
    query = "select * from peers.siblings(%s)"
    assert row(world.db, query, one.id) == {
        "sibling_id": other.id, "pid": 12, "process_start": 12, "liveness_lock": "a",
    }  # fmt: skip
    declare_lost(one, other)
    for peer_id in (one.id, other.id, unknown_token()):
        assert world.db.execute(query, (peer_id,)).fetchall() == []


def test_a_join_is_announced(world: World) -> None:
    """The peers of a host learn that there is another one to watch; others need not."""
    listener = world.connect()
    run(listener, "listen peers")
    join_on(world.db, None)
    join_on(world.db, "one")
    run(listener, "select 1")
    assert [notify.payload for notify in listener.notifies(timeout=0)] == ["joined"]


def a_claim_and_a_witness_follow_one_another(world: World) -> None:
    """The server finishes a claim of a process that is gone: its tasks are not forgotten."""
    task_id = submit(world.db)
    dead, witness = join_on(world.connect(), "one"), join_on(world.connect(), "one", 2)
    with dead.db.transaction():
        assert len(dead.claim()) == 1
        work = world.background(declare_lost, witness, dead)
        world.until_waiting_or_done(witness.db, work)
        assert result(work) == [], "it neither waits nor declares the peer lost"
    assert declare_lost(witness, dead) == [dead.id]
    assert [each["task_id"] for each in witness.reclaim()] == [task_id]


def test_a_claim_and_a_witness(world: World) -> None:
    """A claim that is under way ends first."""
    a_claim_and_a_witness_follow_one_another(world)
    assert problems(world.db) == []


def test_a_witness_that_does_not_wait_for_a_claim(world: World) -> None:
    """Without the lock the claim would leave leases that belong to a lost peer."""
    patch = Patch(
        "42_witness.sql",
        "        order by s.id for update skip locked\n",
        "        order by s.id\n",
    )
    apply_patches(world.db, [patch])
    with pytest.raises(AssertionError):
        a_claim_and_a_witness_follow_one_another(world)
