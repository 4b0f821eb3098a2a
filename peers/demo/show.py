"""Live progress: one line that is rewritten on a terminal, else a line now and then."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from peers.demo import ledger

if TYPE_CHECKING:
    from peers.demo.fleet import Fleet
    from peers.demo.watch import Tally

_BAR_WIDTH = 24
_LINE_EVERY_SECONDS = 2.0
_ERASE_LINE = "\r\x1b[K"


class Progress:
    """Talks on stderr; `say` for what shall stay, `show` for where we are."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._next_line = 0.0

    def say(self, sentence: str) -> None:
        """A sentence of its own."""
        self._clear()
        print(sentence, file=sys.stderr, flush=True)

    def show(self, tally: Tally, fleet: Fleet) -> None:
        """How far it is, if there is a place or time for it."""
        now = time.monotonic()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            line = f"{_bar(tally)} {self._line(tally, fleet)}"
            print(f"{_ERASE_LINE}{line[:width]}", end="", file=sys.stderr, flush=True)
        elif now >= self._next_line or tally.ended == tally.total:
            self._next_line = now + _LINE_EVERY_SECONDS
            print(self._line(tally, fleet), file=sys.stderr, flush=True)

    def end(self) -> None:
        """The rewritten line stays as it is."""
        if self._terminal:
            print(file=sys.stderr)

    def _line(self, tally: Tally, fleet: Fleet) -> str:
        runs = Counter(entry.peer for entry in ledger.read(fleet.ledger))
        peers = " · ".join(
            f"peer {m.number}: {runs[m.number]}{'' if m.alive else ' (killed)'}"
            for m in fleet.members
        )
        seconds = time.monotonic() - self._begun
        return (
            f"{tally.ended}/{tally.total} · {peers} · dead {tally.dead} · "
            f"reclaimed {tally.reclaimed} · {seconds:.0f} s"
        )

    def _clear(self) -> None:
        if self._terminal:
            print(_ERASE_LINE, end="", file=sys.stderr)


def _bar(tally: Tally) -> str:
    full = _BAR_WIDTH * tally.ended // tally.total
    return "█" * full + "░" * (_BAR_WIDTH - full)
