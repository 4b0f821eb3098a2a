"""The names of a run's tasks: kinds, queue and idempotency keys."""

from __future__ import annotations

import hashlib
from typing import Final

QUEUE: Final = "predict"
CHUNK: Final = "peers.predict.chunk"
ROW: Final = "peers.predict.row"
REMOTE: Final = "peers.predict.remote"
REMOTE_ROW: Final = "peers.predict.remote_row"
ASSEMBLE: Final = "peers.predict.assemble"
APP: Final = "peers.predict.app"
NAMED_MODEL: Final = "_PEERS_PREDICT_NAMED_MODEL"
"""Internal: tells a peer that the command starts which model it will use, as [model, method]."""
MODEL_PROCESS_SOCKET: Final = "_PEERS_PREDICT_MODEL_PROCESS_SOCKET"
"""Internal: the socket where the command waits for a fork of the process that loads the model."""

_LONGEST_NAME: Final = 200


def graph_key(run: str) -> str:
    """Return the idempotency key of the run's graph."""
    return f"peers.predict/{run}"


def chunk_key(run: str, number: int, submission: int = 1) -> str:
    """Return the key of a chunk's task; a part that is lost needs a later submission."""
    return f"peers.predict/{run}/chunk/{number}" + (f"/{submission}" if submission > 1 else "")


def row_key(run: str, row: int, submission: int = 1) -> str:
    """Return the key of an isolated row's task; a cancelled row needs a later submission."""
    return f"peers.predict/{run}/row/{row}" + (f"/{submission}" if submission > 1 else "")


def assemble_key(run: str, submission: int, stage: int) -> str:
    """Return the key of an assembling task: each submission has up to two stages."""
    return f"peers.predict/{run}/assemble/{submission}/{stage}"


def cooldown_name(endpoint: str) -> str:
    """Return the name of an endpoint's cooldown: its URL, shortened with a digest if it is long."""
    if len(endpoint) <= _LONGEST_NAME:
        return endpoint
    digest = hashlib.blake2b(endpoint.encode(), digest_size=16).hexdigest()
    return f"{endpoint[: _LONGEST_NAME - len(digest) - 1]}…{digest}"
