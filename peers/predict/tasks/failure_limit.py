"""Stop a run in which too many rows fail (--stop-after-dead). The run's own tasks check the limit.

The reason is written to a file in the run's folder. Chunks that have not begun then complete
without a part. Rows and the assembling task are rejected with RunStopped. Finished work stays: the
same command continues once the limit is higher or the dead rows are retried.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peers import Reject
from peers.predict.atomic_files import atomic_write
from peers.predict.dead_limit import DEFAULT_STOP_AFTER_DEAD, DeadLimit
from peers.predict.errors import RunStopped, StorageFailed
from peers.predict.spec import Manifest
from peers.predict.tasks.row_counts import RowCounts

_STOPPED: Final = "stopped.json"
_MIN_ROWS_FOR_SHARE: Final = 1000
"""A share of fewer rows says little."""


def raise_if_stopped(manifest: Manifest) -> None:
    """Raise RunStopped if the run is stopped; stop it first if it exceeds its limit."""
    reason = stop_reason(manifest)
    if reason is None:
        reason = limit_exceeded(manifest)
        if reason is None:
            return
        with contextlib.suppress(StorageFailed), atomic_write(_path(manifest)) as temporary:
            temporary.write_text(json.dumps({"reason": reason}), encoding="utf-8")
    raise RunStopped(reason)


def stop_reason(manifest: Manifest) -> str | None:
    """Return why the run was stopped; None if it was not."""
    try:
        found = json.loads(_path(manifest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found["reason"])


def limit_exceeded(manifest: Manifest) -> str | None:
    """Return why the run must stop now, as a sentence; None if it is within its limit."""
    counts = RowCounts(manifest.folder)
    dead = counts.dead()
    if not dead:
        return None
    tried = counts.predicted() + dead
    limit = DeadLimit(manifest.stop_after_dead or DEFAULT_STOP_AFTER_DEAD.text)
    if limit.is_share and tried < _MIN_ROWS_FOR_SHARE:
        return None
    if dead <= limit.rows(tried):
        return None
    if manifest.stop_after_dead is None and dead <= allowed_dead_rows(manifest):
        return None  # an explicit --max-dead comes before a default
    return (
        f"{dead:,} of the {tried:,} rows tried so far are dead, more than --stop-after-dead "
        f"{limit} allows"
    )


def allowed_dead_rows(manifest: Manifest) -> int:
    """Return how many rows of the run may be dead for exit code 0."""
    return DeadLimit(manifest.max_dead).rows(manifest.input.rows)


def clear(manifest: Manifest, *, forget_dead: bool) -> None:
    """Let a stopped run continue; `forget_dead`: its dead rows are retried."""
    if forget_dead:
        RowCounts(manifest.folder).forget_dead()
    _path(manifest).unlink(missing_ok=True)


def mark_last_attempt(manifest: Manifest, row: int) -> None:
    """Count a row as dead before its last attempt; `record_rows` corrects that.

    A row that kills its worker could not be counted afterwards.
    """
    if not manifest.asynchronous:
        RowCounts(manifest.folder).mark_dead([row])


def record_rows(manifest: Manifest, outcomes: Mapping[int, object]) -> None:
    """Count the outcomes of isolated rows, and stop the run if too many are dead."""
    counts = RowCounts(manifest.folder)
    dead = [row for row, outcome in outcomes.items() if _is_dead(outcome)]
    counts.mark_alive(row for row, outcome in outcomes.items() if not _is_dead(outcome))
    if dead:
        counts.mark_dead(dead)
        with contextlib.suppress(RunStopped):
            raise_if_stopped(manifest)


def record_chunk(manifest: Manifest, number: int, result: dict[str, object]) -> dict[str, object]:
    """Count the rows that a chunk predicted; return its result."""
    RowCounts(manifest.folder).record_chunk(number, int(str(result["predicted"])))
    return result


def skipped_result() -> dict[str, object]:
    """Return the result of a chunk that a stopped run skips."""
    return {"rows": 0, "predicted": 0, "isolated": 0, "batches": 0, "skipped": True}


def _is_dead(outcome: object) -> bool:
    return isinstance(outcome, Reject) and not isinstance(outcome, RunStopped)


def _path(manifest: Manifest) -> Path:
    return manifest.folder / _STOPPED
