"""Check that the extra for predictions is installed."""

from __future__ import annotations

import importlib.util

from peers.errors import PeersError, install_command


def require_extra() -> None:
    """Raise PeersError if the extra for predictions is not installed."""
    if importlib.util.find_spec("pyarrow") is None:  # importing it would be slow
        raise PeersError(
            "predictions need packages that are not installed, such as pyarrow",
            f"Install the extra: {install_command('predict')}",
        )
