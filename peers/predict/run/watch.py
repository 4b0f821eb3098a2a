"""Wait for a run and show how far it is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import psycopg

from peers import DatabaseUnreachable
from peers.predict.errors import PredictError
from peers.predict.run.storage_failures import StorageFailures
from peers.predict.run.summary import Summary, summarize
from peers.predict.spec import Manifest

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

T = TypeVar("T")

_SHORTEST_NAP: Final = 0.02
_LONGEST_NAP: Final = 1.0
_NAP_PER_SECOND: Final = 0.05
"""A long run is looked at less often, and so is one of many rows that stand alone: the workers
need the cores.
"""
_NAPS_PER_LOOK: Final = 10
_SAY_EVERY: Final = 5.0


def say(sentence: str) -> None:
    """Print a sentence on stderr: stdout is for the summary."""
    print(sentence, file=sys.stderr, flush=True)


def through_outages(
    connect: Callable[[], AbstractContextManager[Connection]], act: Callable[[Connection], T]
) -> T:
    """Return what `act` returns; call it again on a new connection when one is lost."""
    while True:
        try:
            with connect() as connection:
                return act(connection)
        except (psycopg.OperationalError, DatabaseUnreachable) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            say(f"the database is away ({reason}); the run goes on when it is back")
            time.sleep(_LONGEST_NAP)


def watch(
    connection: Connection,
    manifest: Manifest,
    look: Callable[[], None] = lambda: None,
    stream: TextIO = sys.stderr,
) -> Summary:
    """Wait until the run is done, or cannot go on; `look` is called now and then.

    Raises PredictError when its tasks were deleted meanwhile, StorageFailed when they fail again
    and again because they cannot write.
    """
    storage = StorageFailures(connection, manifest)
    summary, took = _look(connection, manifest)
    bar = _bar(manifest, summary, stream)
    with bar if isinstance(bar, AbstractContextManager) else nullcontext():
        began = said_at = time.monotonic()
        while summary.state == "running":
            look()
            if summary.trouble is not None:
                storage.raise_if_lasting()
            waited = time.monotonic() - began
            nap = min(_LONGEST_NAP, _SHORTEST_NAP + _NAP_PER_SECOND * waited)
            if summary.handled == summary.rows:  # only the output is to be written
                nap = _SHORTEST_NAP
            time.sleep(max(nap, _NAPS_PER_LOOK * took))
            summary, took = _look(connection, manifest)
            if bar is not None:
                bar.update(
                    bar.task_ids[0], completed=summary.handled, trouble=summary.trouble or ""
                )
            elif time.monotonic() - said_at > _SAY_EVERY:
                said_at = time.monotonic()
                print(summary.progress(), file=stream, flush=True)
    return summary


def _look(connection: Connection, manifest: Manifest) -> tuple[Summary, float]:
    began = time.monotonic()
    summary = summarize(connection, manifest)
    if summary is None:
        raise PredictError(
            f"the tasks of run {manifest.run} were deleted", "Run the same command again."
        )
    return summary, time.monotonic() - began


def _bar(manifest: Manifest, summary: Summary, stream: TextIO) -> Any:
    """A bar on a terminal; None elsewhere, or without rich."""
    if not stream.isatty():
        return None
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None

    class BatchSizer(progress.ProgressColumn):
        """Rows a second, once there is something to tell it by."""

        def render(self, task: progress.Task) -> str:
            return "" if task.speed is None else f"{task.speed:,.0f} rows/s"

    bar = progress.Progress(
        progress.TextColumn(manifest.name or manifest.run),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        BatchSizer(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[trouble]}", markup=False),
        console=Console(file=stream),
    )
    # what was done before says nothing of the pace
    bar.add_task(
        "rows", total=summary.rows, completed=summary.handled, trouble=summary.trouble or ""
    )
    return bar
