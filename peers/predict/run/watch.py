"""Wait for a run and show its progress: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO

from peers.predict.run.lasting_failures import LastingFailures

if TYPE_CHECKING:
    from peers.predict.run.run import Run
    from peers.predict.run.summary import Summary
    from peers.predict.spec import Manifest

_MIN_PAUSE: Final = 0.02
_MAX_PAUSE: Final = 1.0
_PAUSE_PER_SECOND: Final = 0.05
"""A long run is polled less often, and so is a run with many isolated rows, whose summary takes
longer: the workers need the cores.
"""
_PAUSES_PER_POLL: Final = 10
_PRINT_INTERVAL: Final = 5.0


def watch(
    run: Run,
    on_look: Callable[[], None] = lambda: None,
    stream: TextIO = sys.stderr,
    *,
    has_own_peer: bool = False,
) -> Summary:
    """Wait until the run is over or cannot continue; `on_look` is called at each look.

    `has_own_peer`: whether the command started a peer for the run.

    Raises PredictError when the run's tasks were deleted meanwhile, StorageFailed when they fail
    again and again because they cannot write, and ModelError when no peer trusts the model.
    """
    lasting, told = LastingFailures(run, has_own_peer=has_own_peer), ""
    summary, took = _look(run)
    bar = _bar(run.manifest, summary, stream)
    with bar if isinstance(bar, AbstractContextManager) else nullcontext():
        began = printed_at = time.monotonic()
        while summary.state == "running":
            on_look()
            if summary.trouble is not None:
                lasting.raise_if_lasting()
            waited = time.monotonic() - began
            pause = min(_MAX_PAUSE, _MIN_PAUSE + _PAUSE_PER_SECOND * waited)
            if summary.handled == summary.rows:  # only the output is missing
                pause = _MIN_PAUSE
            time.sleep(max(pause, _PAUSES_PER_POLL * took))
            summary, took = _look(run)
            if bar is not None:
                bar.update(
                    bar.task_ids[0], completed=summary.handled, trouble=summary.trouble or ""
                )
            elif time.monotonic() - printed_at > _PRINT_INTERVAL:
                printed_at = time.monotonic()
                print(summary.progress(), file=stream, flush=True)
                trouble = summary.trouble or told
                if trouble != told and trouble not in lasting.messages:
                    told = trouble
                    print(summary.trouble_line(), file=stream, flush=True)
    return run.summary()


def _look(run: Run) -> tuple[Summary, float]:
    began = time.monotonic()
    return run.summary(with_dead=False), time.monotonic() - began


def _bar(manifest: Manifest, summary: Summary, stream: TextIO) -> Any:
    """Return a progress bar on a terminal; None elsewhere, or without the package rich."""
    if not stream.isatty():
        return None
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None

    class Rate(progress.ProgressColumn):
        """Rows per second, once they can be measured."""

        def render(self, task: progress.Task) -> str:
            return "" if task.speed is None else f"{task.speed:,.0f} rows/s"

    bar = progress.Progress(
        progress.TextColumn(manifest.name or manifest.run),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[trouble]}", markup=False),
        console=Console(file=stream),
    )
    # rows that were done before say nothing about the rate
    bar.add_task(
        "rows", total=summary.rows, completed=summary.handled, trouble=summary.trouble or ""
    )
    return bar
