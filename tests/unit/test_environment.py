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


@pytest.mark.parametrize("flag", [(), ("/srv/less",)])
def test_a_flag_that_trusts_less_is_not_undone_by_the_environment(flag: tuple[str, ...]) -> None:
    """The effective setting is what a worker trusts, also when it is nothing."""
    given = {"PEERS_PREDICT_TRUST": "/srv/more,shop.models"}
    got = Environment(predict_trust=flag).of_slot(0, given)
    assert got["PEERS_PREDICT_TRUST"] == ",".join(flag)


def test_a_worker_is_told_the_effective_batch_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds, however it was said; no longer than a batch may wait."""
    monkeypatch.setenv("PEERS_PREDICT_BATCH_WAIT", "250ms")
    wait = Settings().predict_batch_wait.total_seconds()
    got = Environment(predict_batch_wait=wait).of_slot(0, {"PEERS_PREDICT_BATCH_WAIT": "250ms"})
    assert got["PEERS_PREDICT_BATCH_WAIT"] == "0.25"
    monkeypatch.setenv("PEERS_PREDICT_BATCH_WAIT", "5s")
    with pytest.raises(ConfigError, match="predict_batch_wait"):
        Settings()


def test_settings_are_lists_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comma lists from the environment; no fewer than one thread."""
    monkeypatch.setenv("PEERS_GPUS", "0, 1")
    monkeypatch.setenv("PEERS_PREDICT_TRUST", "/srv/models,shop.models")
    settings = Settings()
    assert settings.gpus == ("0", "1")
    assert settings.predict_trust == ("/srv/models", "shop.models")
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
