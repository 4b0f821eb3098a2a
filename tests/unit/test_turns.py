"""One transaction a turn: what it holds, when its COMMIT waits, and who is blamed for a refusal."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import Mock
from uuid import uuid4

import psycopg
import pytest

from peers.database.jobs import Job
from peers.database.pipeline import Statement, StatementRefused
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import PeerLost
from peers.peer.batch import Batch
from peers.peer.claims import Claims
from peers.peer.recorder import Recorder
from peers.peer.state import PeerState
from peers.peer.turns import Turns

RECORD, RELEASE, CLAIM = Statement(b"record"), Statement(b"release"), Statement(b"claim")
ERROR = psycopg.errors.RaiseException("no")


class World:
    """Turns with a queue from which to claim, and perhaps outcomes to record."""

    def __init__(self, *, outcomes: bool, claims: int, durable: bool = False) -> None:
        batch = Mock(spec=Batch)
        batch.statements.return_value = [RECORD, RELEASE]
        batch.parts.return_value = [RECORD, RELEASE]
        batch.count = 2
        self.recorder = Mock(spec=Recorder)
        self.recorder.take_due.return_value = batch if outcomes else None
        self.requests = [Mock(job=f"claim {n}") for n in range(claims)]
        self.claims = Mock(spec=Claims)
        self.claims.due.return_value = self.requests
        self.claims.write.return_value = [CLAIM] * claims
        self.connection = Mock(spec=ReconnectingConnection, is_idle=True, encoding="UTF8")
        self.turns = Turns(
            PeerState(uuid4()), self.connection, self.recorder, self.claims, durable_claims=durable
        )

    def job(self) -> Job:
        """Begin a turn, and return its transaction."""
        self.turns.start_due(claims=True)
        [call] = self.connection.start.call_args_list
        return cast("Job", call.args[0])

    def refuse(self, index: int | None, error: Exception = ERROR) -> None:
        """Begin a turn whose statement with this number is refused."""
        self.job().on_refused(StatementRefused(error, index))

    @property
    def put_off(self) -> list[Any]:
        """The claims that were put off."""
        return [call.args[0].job for call in self.claims.refused.call_args_list]


def test_outcomes_and_claims_are_one_transaction() -> None:
    """Outcomes first: what they unblock can be claimed. The replies go where they belong."""
    world = World(outcomes=True, claims=2)
    job = world.job()
    assert job.statements == [RECORD, RELEASE, CLAIM, CLAIM]
    replies: list[Any] = ["recorded", "released", "one", "two"]
    job.on_committed(replies)
    world.recorder.conclude.assert_called_once_with(["recorded", "released"])
    world.claims.take.assert_called_once_with(world.requests, ["one", "two"])


@pytest.mark.parametrize("outcomes", [True, False])
def test_claims_know_whether_the_transaction_records_outcomes(outcomes: bool) -> None:
    """What outcomes unblock can be claimed in their transaction, although the queue was empty."""
    world = World(outcomes=outcomes, claims=1)
    world.job()
    assert world.claims.due.call_args.kwargs == ({"with_outcomes": True} if outcomes else {})


def test_a_turn_during_a_chore_ends_the_one_before() -> None:
    """The notification of the chore is not that of the claims, which did not see its tasks."""
    world = World(outcomes=False, claims=1)
    world.connection.is_idle = False
    world.turns.start_due(claims=True)
    world.claims.end_turn.assert_called_once_with()
    world.connection.start.assert_not_called()


@pytest.mark.parametrize(
    ("outcomes", "setting", "durable"),
    [(True, False, True), (True, True, True), (False, True, True), (False, False, False)],
)
def test_only_a_claim_alone_need_not_be_durable(
    outcomes: bool, setting: bool, durable: bool
) -> None:
    """A recorded outcome is never forgotten; a claim may be, unless the setting says otherwise."""
    world = World(outcomes=outcomes, claims=1, durable=setting)
    world.job()
    assert world.claims.write.call_args.kwargs == {"durable": durable}


def test_nothing_is_sent_when_nothing_is_due() -> None:
    """Nor while a job is in progress, or before the peer has joined."""
    world = World(outcomes=False, claims=0)
    world.turns.start_due(claims=True)
    busy = World(outcomes=True, claims=1)
    busy.connection.is_idle = False
    busy.turns.start_due(claims=True)
    for each in (world, busy):
        each.connection.start.assert_not_called()
    busy.recorder.take_due.assert_not_called()


def test_nothing_is_sent_when_a_refused_outcome_has_ended_the_session() -> None:
    """The next turn connects again. The peer would end if it sent a transaction without that."""
    world = World(outcomes=False, claims=1)

    def end_session() -> None:
        world.connection.is_idle = False

    world.recorder.record_refused.side_effect = end_session
    world.turns.start_due(claims=True)
    world.connection.start.assert_not_called()


def test_a_fenced_peer_records_and_claims_nothing() -> None:
    """Its workers are dead; what they had finished counts if the lease still holds."""
    world = World(outcomes=True, claims=1)
    world.claims.write.return_value = []
    world.turns.start_due(claims=False)
    world.claims.due.assert_not_called()
    [call] = world.connection.start.call_args_list
    assert call.args[0].statements == [RECORD, RELEASE]


def test_a_refused_claim_is_put_off_alone() -> None:
    """The outcomes are sent again without it."""
    world = World(outcomes=True, claims=2)
    world.refuse(3)
    assert world.put_off == ["claim 1"]
    world.recorder.put_back.assert_called_once()
    world.recorder.refused.assert_not_called()


@pytest.mark.parametrize("index", [0, 1, None])
def test_a_refused_outcome_is_looked_for(index: int | None) -> None:
    """Also when the COMMIT was refused: a trigger may raise as late as that."""
    world = World(outcomes=True, claims=1)
    world.refuse(index)
    world.recorder.refused.assert_called_once()
    assert world.put_off == []


def test_a_refused_commit_of_claims_puts_all_off() -> None:
    """Nobody knows which of them it was."""
    world = World(outcomes=False, claims=2)
    world.refuse(None)
    assert world.put_off == ["claim 0", "claim 1"]


def test_a_lost_peer_is_told_and_keeps_its_outcomes() -> None:
    """They may still be recorded: other peers have perhaps not reclaimed the tasks."""
    world = World(outcomes=True, claims=1)
    with pytest.raises(PeerLost):
        world.refuse(2, PeerLost("expired"))
    world.recorder.put_back.assert_called_once()


def test_a_lost_connection_keeps_the_outcomes() -> None:
    """Whether they were recorded is unknown; the database says so the next time."""
    world = World(outcomes=True, claims=1)
    world.job().on_lost()
    world.recorder.put_back.assert_called_once()
