"""Messages of the command, on stderr: stdout is for the summary."""

from __future__ import annotations

import sys


def say(sentence: str) -> None:
    """Print a sentence on stderr."""
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
