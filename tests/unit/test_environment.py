"""What each worker gets of the machine."""

from __future__ import annotations

import os

import pytest

from peers.errors import ConfigError
from peers.pool.environment import Environment
from peers.settings import Settings


def test_workers_take_turns_on_the_gpus_and_share_the_cores() -> None:
    """Three workers on two GPUs; threads are the cores by the slots, at least one."""
    environment = Environment(slots=3, gpus=("0", "GPU-b"))
    slots = [environment.of_slot(slot, {"PATH": "/bin"}) for slot in range(3)]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "GPU-b", "0"]
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {str(threads)}
    assert slots[0]["PATH"] == "/bin"


def test_a_setting_of_peers_is_above_the_environment_and_that_above_the_share() -> None:
    """Two workers that both see all GPUs of the peer would be what PEERS_GPUS is there against."""
    given = {"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "0,1"}
    unset = Environment(slots=1).of_slot(0, given)
    assert unset["OMP_NUM_THREADS"] == "7"
    assert unset["CUDA_VISIBLE_DEVICES"] == "0,1"
    told = [Environment(2, threads=2, gpus=("0", "1")).of_slot(slot, given) for slot in range(2)]
    assert [of["OMP_NUM_THREADS"] for of in told] == ["2", "2"]
    assert [of["CUDA_VISIBLE_DEVICES"] for of in told] == ["0", "1"]


def test_variables_of_the_settings_win_over_the_environment_but_not_over_other_settings() -> None:
    """A flag that trusts less than the environment is not undone by it; GPUs stay one each."""
    given = {"PEERS_PREDICT_TRUST": "/srv/more", "CUDA_VISIBLE_DEVICES": "0,1", "TZ": "UTC"}
    own = {"PEERS_PREDICT_TRUST": "", "CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "9"}
    got = Environment(1, gpus=("1",), variables=own).of_slot(0, given)
    assert (got["PEERS_PREDICT_TRUST"], got["TZ"]) == ("", "UTC")
    assert (got["CUDA_VISIBLE_DEVICES"], got["OMP_NUM_THREADS"]) == ("1", "9")
    assert Environment(1, threads=3, variables=own).of_slot(0, {})["OMP_NUM_THREADS"] == "3"


def test_settings_that_a_handler_reads_accept_the_variables_of_its_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with the prefix of Peers that only worker_env knows is no misspelt setting there."""
    own = {"PEERS_SHOP_REGION": "north sea", "A": "it's"}
    for name, value in Environment(1, variables=own).of_slot(0, {}).items():
        monkeypatch.setenv(name, value)
    assert Settings().worker_env == own


def test_secrets_of_workers_are_not_in_a_description_of_their_environment() -> None:
    """It may end up in a log or a traceback."""
    assert "s3cret" not in repr(Environment(1, variables={"API_TOKEN": "s3cret"}))


def test_settings_are_lists_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comma lists from the environment; no fewer than one thread."""
    monkeypatch.setenv("PEERS_GPUS", "0, 1")
    settings = Settings()
    assert settings.gpus == ("0", "1")
    shown = {origin.name: origin.value for origin in settings.origins()}
    assert shown["gpus"] == "0,1"
    monkeypatch.setenv("PEERS_WORKER_THREADS", "0")
    with pytest.raises(ConfigError, match="worker_threads"):
        Settings()


@pytest.mark.parametrize(
    ("given", "taken"), [("off", False), ("on", True), ("Off", False), ("0", False), (None, True)]
)
def test_preloading_is_on_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, given: str | None, taken: bool
) -> None:
    """As a word that people try; anything else is refused with those that do."""
    if given is not None:
        monkeypatch.setenv("PEERS_PRELOAD", given)
    assert Settings().preload is taken
    monkeypatch.setenv("PEERS_PRELOAD", "sometimes")
    with pytest.raises(ConfigError, match=r'preload is "sometimes".*must be "on" or "off"'):
        Settings()
