"""Stop a run in which too many rows die. Its own tasks notice, so no command needs to watch.

The reason lies in the run's folder. Chunks that have not begun then end without a part, rows are
rejected with RunStopped, and the assembling task is. Everything that was done stays, and the same
command goes on with the rest once the limit is higher or the dead rows are to be retried.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peers import Reject
from peers.predict.errors import RunStopped, StorageFailed
from peers.predict.outputs import replaced
from peers.predict.outputs.tally import Tally
from peers.predict.run.limits import HALF, DeadLimit
from peers.predict.spec import Manifest

_STOPPED: Final = "stopped.json"
_FEWEST_TRIED: Final = 1000
"""Rows, before a share of them means anything."""


def require_going(manifest: Manifest) -> None:
    """Raise RunStopped if the run is stopped, or has to be."""
    reason = stop_reason(manifest)
    if reason is None:
        reason = excess(manifest)
        if reason is None:
            return
        with contextlib.suppress(StorageFailed), replaced(_path(manifest)) as temporary:
            temporary.write_text(json.dumps({"reason": reason}), encoding="utf-8")
    raise RunStopped(reason)


def stop_reason(manifest: Manifest) -> str | None:
    """Return why the run was stopped; None if it was not."""
    try:
        noted = json.loads(_path(manifest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(noted["reason"])


def excess(manifest: Manifest) -> str | None:
    """Return why the run has to stop now, as a sentence; None if it may go on."""
    tally = Tally(manifest.folder)
    dead = tally.dead()
    if not dead:
        return None
    tried = tally.predicted() + dead
    limit = DeadLimit(manifest.stop_after_dead or HALF.text)
    if limit.is_share and tried < _FEWEST_TRIED:
        return None
    if dead <= limit.rows(tried):
        return None
    if manifest.stop_after_dead is None and dead <= allowed(manifest):
        return None  # who allows that many does not want to be stopped by a default
    return (
        f"{dead:,} of the {tried:,} rows tried so far are dead, more than --stop-after-dead "
        f"{limit} allows"
    )


def allowed(manifest: Manifest) -> int:
    """Return how many rows of the run may be dead for exit code 0."""
    return DeadLimit(manifest.max_dead).rows(manifest.input.rows)


def lift(manifest: Manifest, *, forget_dead: bool) -> None:
    """Let the run go on; `forget_dead` if its dead rows are tried again."""
    if forget_dead:
        Tally(manifest.folder).forget_dead()
    _path(manifest).unlink(missing_ok=True)


def begin_last_attempt(manifest: Manifest, row: int) -> None:
    """Count a row as dead that is tried alone for the last time; `count_rows` corrects that.

    If it kills its worker, nobody can count it afterwards.
    """
    if not manifest.asynchronous:
        Tally(manifest.folder).mark_dead([row])


def count_rows(manifest: Manifest, outcomes: Mapping[int, object]) -> None:
    """Count what came of rows that were tried alone, and stop the run if too many are dead."""
    dead = [row for row, outcome in outcomes.items() if _is_dead(outcome)]
    tally = Tally(manifest.folder)
    tally.mark_alive(outcomes.keys() - set(dead))
    if dead:
        tally.mark_dead(dead)
        with contextlib.suppress(RunStopped):
            require_going(manifest)


def count_chunk(manifest: Manifest, number: int, result: dict[str, object]) -> dict[str, object]:
    """Count the rows that a chunk predicted; return its result."""
    Tally(manifest.folder).note_chunk(number, int(str(result["predicted"])))
    return result


def skipped() -> dict[str, object]:
    """Return the result of a chunk that a stopped run leaves out."""
    return {"rows": 0, "predicted": 0, "suspects": 0, "batches": 0, "skipped": True}


def _is_dead(outcome: object) -> bool:
    return isinstance(outcome, Reject) and not isinstance(outcome, RunStopped)


def _path(manifest: Manifest) -> Path:
    return manifest.folder / _STOPPED
