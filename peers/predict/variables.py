"""Read the environment variables of predictions: a worker inherits them from its peer."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

from peers import ConfigError
from peers.spans import timedelta_of

TRUST: Final = "PEERS_PREDICT_TRUST"
BATCH_WAIT: Final = "PEERS_PREDICT_BATCH_WAIT"
VARIABLES: Final = {
    TRUST: "folders and modules from which predictions may load models that are code",
    BATCH_WAIT: "how long single rows wait for others, to share one call of the model "
    "(0s to 4s, default: 50ms)",
}
"""Each variable with its description; `peers run` refuses others with this prefix."""

_WORKER: Final = "_PEERS_WORKER"
"""The scheduler sets it in each worker."""

BATCH_WAIT_MAX: Final = timedelta(seconds=4)
_BATCH_WAIT_DEFAULT: Final = timedelta(milliseconds=50)


def batch_wait() -> timedelta:
    """Return how long single rows wait for others. Raises ConfigError for an invalid value."""
    given = os.environ.get(BATCH_WAIT, "").strip()
    if not given:
        return _BATCH_WAIT_DEFAULT
    try:
        wait, why = timedelta_of(given), "must be 0s to 4s"
    except ValueError as error:
        wait, why = None, str(error)
    if wait is not None and timedelta(0) <= wait <= BATCH_WAIT_MAX:
        return wait
    raise ConfigError(
        f'{BATCH_WAIT} is "{given}": {why}',
        f"Write 0s to 4s, such as {BATCH_WAIT}=50ms, or remove it to use the default (50ms).",
    )


def in_worker() -> bool:
    """Return whether this process is a worker of a peer."""
    return _WORKER in os.environ
