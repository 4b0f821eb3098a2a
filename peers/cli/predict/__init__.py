"""`peers predict`: batch inference. The runner is imported only when a command needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli.parser import add_group
from peers.cli.predict import run

if TYPE_CHECKING:
    from peers.cli.parser import Commands


_RUNS: Final = frozenset({"status", "list", "cancel", "clean"})


def register(commands: Commands, words: list[str]) -> None:
    """Declare `predict`, and `predict status` and the like if that is what was typed."""
    if words[:1] == ["predict"] and words[1:2] and words[1] in _RUNS:
        from peers.cli.predict import runs

        runs.register(
            add_group(commands, "predict", "batch inference", example="peers predict list")
        )
    else:
        run.register(commands)
