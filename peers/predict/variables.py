"""Read the environment variables of predictions: a worker inherits them from its peer."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Final

from peers import ConfigError

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
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)?")


def batch_wait() -> timedelta:
    """Return how long single rows wait for others. Raises ConfigError for an invalid value."""
    given = os.environ.get(BATCH_WAIT, "").strip()
    if not given:
        return _BATCH_WAIT_DEFAULT
    found = _SPAN.fullmatch(given)
    if found is not None:
        number, unit = found.groups()
        wait = timedelta(seconds=float(number) * (0.001 if unit == "ms" else 1))
        if wait <= BATCH_WAIT_MAX:
            return wait
    raise ConfigError(
        f'{BATCH_WAIT} is "{given}": must be a duration of 0s to 4s',
        f"Write it like {BATCH_WAIT}=50ms, or remove it to use the default (50ms).",
    )


def in_worker() -> bool:
    """Return whether this process is a worker of a peer."""
    return _WORKER in os.environ
