"""A peer that cannot work says why, with the exit code for bad configuration; and a migration under
the feet of one that works.
"""

from __future__ import annotations

import pytest

from tests.e2e.harness import Stage

BAD_CONFIGURATION = 78
DATABASE_UNREACHABLE = 3

CONTRACT = """
    create or replace function peers.contract_version() returns integer
        language sql immutable
    as $$ select {} $$
"""


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("tests.e2e.app_broken", ["tests.e2e.app_broken", "no_such_module_anywhere"]),
        ("tests.e2e.no_such_app", ["tests.e2e.no_such_app", "PEERS_APP"]),
        ("tests.e2e.app_empty", ["declares no handler"]),
        ("tests.e2e.app_dies", ["tests.e2e.app_dies"]),
    ],
)
def test_an_app_that_cannot_be_used_is_bad_configuration(
    stage: Stage, app: str, words: list[str]
) -> None:
    """An app that cannot be imported, is not there, has no handler or dies while it is imported:
    the peer names it and exits with 78; it has never joined.
    """
    peer = stage.launch(app)
    assert peer.wait() == BAD_CONFIGURATION
    said = peer.log.read_text()
    for word in words:
        assert word in said
    assert stage.rows("select * from peers.peer") == []


@pytest.mark.parametrize("version", [0, 2])
def test_another_contract_version_is_bad_configuration(stage: Stage, version: int) -> None:
    """A database that is older or newer than the peer is told apart from one that is away."""
    stage.db.execute(CONTRACT.format(version))
    peer = stage.launch()
    assert peer.wait() == BAD_CONFIGURATION
    said = peer.log.read_text()
    assert str(version) in said
    assert "migrate" in said or "Install" in said


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"database_url": "host=/nowhere dbname=x"}, DATABASE_UNREACHABLE, ["/nowhere"]),
        ({"slots": "default=0"}, BAD_CONFIGURATION, ["queues", "default", "1 to"]),
        ({"slots": "default"}, BAD_CONFIGURATION, ["default=8"]),
        ({"lease_timeout": "10ms"}, BAD_CONFIGURATION, ["lease_timeout", "1s"]),
        ({"heartbeat_interval": "20s"}, BAD_CONFIGURATION, ["heartbeat_interval", "third"]),
        ({"poll_interval": "often"}, BAD_CONFIGURATION, ["poll_interval", "often"]),
        ({"lease_timout": "30s"}, BAD_CONFIGURATION, ["PEERS_LEASE_TIMOUT", "PEERS_LEASE_TIMEOUT"]),
        ({"app": ""}, BAD_CONFIGURATION, ["app"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(
    stage: Stage, settings: dict[str, str], code: int, words: list[str]
) -> None:
    """The setting, the bound and the remedy are said, and the exit code tells an outage from a
    mistake.
    """
    peer = stage.launch(**settings)
    assert peer.wait() == code, peer.log.read_text()
    for word in words:
        assert word in peer.log.read_text()
    assert "Traceback" not in peer.log.read_text()


def test_a_database_without_the_schema_is_bad_configuration(
    empty_database_url: str, stage: Stage
) -> None:
    """The remedy is named: peers migrate."""
    peer = stage.launch(database_url=empty_database_url)
    assert peer.wait() == BAD_CONFIGURATION
    assert "peers migrate" in peer.log.read_text()


def test_a_migration_under_the_feet_of_a_running_peer(stage: Stage) -> None:
    """When the heartbeat answers another contract version, the peer claims no more, lets its
    handlers finish, gives back the rest and exits with 1, so that its supervisor starts the new
    release.
    """
    peer = stage.peer(heartbeat_interval="500ms")
    running = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(running)
    stage.db.execute(CONTRACT.format(2))
    peer.await_event("contract_changed")
    late = stage.submit("noop")
    stage.open(stage.gate())
    assert peer.wait() == 1
    assert stage.task(running)["state"] == "completed"
    assert (stage.task(late)["state"], stage.task(late)["attempt"]) == ("ready", 0)
    assert stage.rows("select * from peers.peer") == []


@pytest.mark.parametrize("first", ["migration", "signal"])
def test_a_migration_and_sigterm_are_one_drain(stage: Stage, first: str) -> None:
    """A deployment migrates and stops the old peers at about the same time: whichever comes first,
    what runs may finish.
    """
    peer = stage.peer(heartbeat_interval="500ms")
    running = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(running)
    if first == "signal":
        peer.process.terminate()
        peer.await_event("peer_draining")
    stage.db.execute(CONTRACT.format(2))
    peer.await_event("contract_changed")
    if first == "migration":
        peer.process.terminate()
        peer.await_event("signal_received")
    stage.open(stage.gate())
    assert peer.wait() == 1
    assert stage.task(running)["state"] == "completed"
    assert stage.task(running)["stopped_because"] is None
