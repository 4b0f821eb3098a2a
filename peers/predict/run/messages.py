"""Messages of the command, on stderr: stdout is for the summary."""

from __future__ import annotations

import sys


def say(sentence: str) -> None:
    """Print a sentence on stderr."""
    print(sentence, file=sys.stderr, flush=True)
