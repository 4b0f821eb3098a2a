"""The environment of the peer that `peers predict --workers` starts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from peers.pool.environment import Environment
from peers.predict.run.own_peer import OwnPeerOptions, environment_of
from peers.settings import Settings

if TYPE_CHECKING:
    import pytest


def test_its_workers_get_the_variables_of_the_command_and_its_flag_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They come from the settings of the command, whose --config the peer does not read."""
    given = "PEERS_PREDICT_TRUST=/srv/models PEERS_PREDICT_BATCH_WAIT=1s A='b c'"
    monkeypatch.setenv("PEERS_EMBEDDED", "on")
    environment = environment_of(
        "host=x", OwnPeerOptions(1, "m", batch_wait=0.25, worker_env=given)
    )
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.url, settings.embedded) == ("host=x", False)
    worker = Environment.of(settings).of_slot(0)
    assert worker["PEERS_PREDICT_TRUST"] == "/srv/models"
    assert worker["PEERS_PREDICT_BATCH_WAIT"] == "0.25s"
    assert worker["A"] == "b c"
