"""The names that tasks of a run go by."""

from __future__ import annotations

from typing import Final

QUEUE: Final = "predict"
CHUNK: Final = "peers.predict.chunk"
ROW: Final = "peers.predict.row"
REMOTE: Final = "peers.predict.remote"
REMOTE_ROW: Final = "peers.predict.remote_row"
ASSEMBLE: Final = "peers.predict.assemble"
APP: Final = "peers.predict.app"


def chunk_key(run: str, number: int) -> str:
    """The idempotency key of a chunk's task."""
    return f"peers.predict/{run}/chunk/{number}"


def row_key(run: str, row: int) -> str:
    """The idempotency key of a row that stands alone."""
    return f"peers.predict/{run}/row/{row}"


def assemble_key(run: str, turn: int) -> str:
    """The idempotency key of the run's assembling tasks, of which there may be several in turn."""
    return f"peers.predict/{run}/assemble/{turn}"
