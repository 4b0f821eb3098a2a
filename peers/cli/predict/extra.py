"""Whether predictions are installed."""

from __future__ import annotations

import importlib.util

from peers.errors import PeersError


def require_extra() -> None:
    """Raise PeersError if the isolated for predictions is not installed."""
    if importlib.util.find_spec("pyarrow") is None:  # importing it here would take its time
        raise PeersError(
            "predictions need more than the core of Peers (there is no pyarrow)",
            "Install the isolated: pip install 'peers[predict]'.",
        )
