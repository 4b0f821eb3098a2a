"""The names that tasks of a run go by."""

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
"""No setting: it tells a peer of our own which model the command names, as [model, method]."""
TRIAL_SOCKET: Final = "_PEERS_PREDICT_TRIAL_SOCKET"
"""No setting either: where the command waits for a fork of the process that loads its model."""

_LONGEST_NAME: Final = 200


def chunk_key(run: str, number: int, turn: int = 1) -> str:
    """Return the key of a chunk's task; of another turn, if its part has to be made again."""
    return f"peers.predict/{run}/chunk/{number}" + (f"/{turn}" if turn > 1 else "")


def row_key(run: str, row: int, turn: int = 1) -> str:
    """Return the key of a row that stands alone; of another turn, after it was cancelled."""
    return f"peers.predict/{run}/row/{row}" + (f"/{turn}" if turn > 1 else "")


def assemble_key(run: str, turn: int, stage: int) -> str:
    """Return the key of an assembling task of the run: two stages in a turn, several turns."""
    return f"peers.predict/{run}/assemble/{turn}/{stage}"


def cooldown_name(endpoint: str) -> str:
    """Under which all peers leave an endpoint alone: its URL, or what tells it from others."""
    if len(endpoint) <= _LONGEST_NAME:
        return endpoint
    digest = hashlib.blake2b(endpoint.encode(), digest_size=16).hexdigest()
    return f"{endpoint[: _LONGEST_NAME - len(digest) - 1]}…{digest}"
