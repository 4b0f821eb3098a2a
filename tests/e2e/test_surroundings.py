"""What a handler meets in a real worker: its share of the machine, and the cooldowns of all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.harness import Stage

APP = "tests.e2e.app_surroundings"


def result(stage: Stage, kind: str, **args: Any) -> Any:
    """What a task returned, once it has run."""
    task_id = stage.submit(kind, args)
    stage.until_state("completed", task_id)
    return stage.task(task_id)["result"]


def test_a_worker_has_its_share_and_the_variables_of_the_settings(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads and GPU are those of the settings, whatever the environment of the peer says; an
    async worker, which is started first, has slot 0.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-z")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("SHOP_REGION", "north")
    stage.peer(
        APP, worker_threads=3, gpus="GPU-a,GPU-b",
        worker_env="PEERS_PREDICT_TRUST=/srv/models,shop.models SHOP_REGION='south sea'",
    )  # fmt: skip
    expected = {
        "CUDA_VISIBLE_DEVICES": "GPU-b",
        "OPENBLAS_NUM_THREADS": "3",
        "OMP_NUM_THREADS": "3",
        "PEERS_PREDICT_TRUST": "/srv/models,shop.models",
        "SHOP_REGION": "south sea",
    }
    assert result(stage, "environment", names=list(expected)) == expected


def test_what_one_peer_is_told_the_others_heed(stage: Stage) -> None:
    """From sync and async handlers alike, and for a peer that starts later."""
    first = stage.peer(APP)
    assert 50 < result(stage, "holds.off", name="http://a", seconds=60) <= 60
    held, still = result(stage, "async.holds.off", name="http://b", seconds=60)
    assert 50 < still <= held <= 60
    first.terminate()
    stage.peer(APP)
    assert 0 < result(stage, "cools.down", name="http://a") <= 60
    assert result(stage, "cools.down", name="http://c") == 0


@pytest.mark.parametrize(
    ("seconds", "error_type"), [(1e300, "ValueError"), (0, "BadTask"), (86_401, "BadTask")]
)
def test_an_impossible_cooldown_fails_the_task_alone(
    stage: Stage, seconds: float, error_type: str
) -> None:
    """The handler gets an error; its peer goes on under the same identity."""
    peer = stage.peer(APP)
    task_id = stage.submit("holds.off", {"name": "http://a", "seconds": seconds})
    stage.until_state("dead", task_id)
    assert stage.failures(task_id)[0]["error_type"] == error_type
    assert result(stage, "cools.down", name="http://a") == 0
    assert len(peer.events("peer_joined")) == 1
