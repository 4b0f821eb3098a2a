"""The same command again: find out what a run lacks, and have only that done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peers.predict import outputs
from peers.predict.errors import StorageFailed
from peers.predict.run import record, submission
from peers.predict.run.row_tasks import RowTasks
from peers.predict.run.summary import Summary, summarize
from peers.predict.run.watch import say
from peers.predict.spec import Manifest, load_manifest
from peers.predict.tasks import failure_limit
from peers.predict.tasks.row_submissions import begin_submission

if TYPE_CHECKING:
    from peers.predict.run.prepare import Plan
    from peers.predict.run.record import Connection


def go_on(
    connection: Connection, plan: Plan, *, overwrite: bool, retry_dead: bool
) -> Summary | None:
    """Submit what a run lacks that was submitted before; return its summary if that is nothing."""
    manifest = plan.manifest
    summary = summarize(connection, manifest)
    assert summary is not None
    turns = record.turns(connection, manifest.run)
    if (
        summary.stopped is not None
        and not retry_dead
        and failure_limit.limit_exceeded(manifest) is not None
    ):
        return summary
    is_resumed = _resume_rows(connection, manifest, turns[0], summary, retry_dead=retry_dead)
    if summary.state == "running" and not is_resumed:
        say(f"going on with run {manifest.run}: {summary.handled:,} rows are done")
        return None
    rows = record.states(connection, turns, record.ROWS)
    is_settled = summary.state == "done" and not is_resumed and not overwrite
    if is_settled and _is_whole(manifest, turns[-1], rows):
        say(f"run {manifest.run} is done already: nothing is missing")
        return summary
    lost = _lost_parts(connection, manifest, turns)
    say(
        f"going on with run {manifest.run}: it is {summary.state}"
        + (f", and {len(lost):,} parts have to be made again" if lost else "")
    )
    submission.go_on(connection, plan, lost, overwrite=overwrite)
    return None


def _resume_rows(
    connection: Connection, manifest: Manifest, first: record.Turn, summary: Summary,
    *, retry_dead: bool,
) -> bool:  # fmt: skip
    """Give rows another chance that a stop or a cancellation ended, and dead ones if wanted.

    Return whether there is anything to do again.
    """
    tasks = RowTasks(connection, manifest.run)
    is_stopped, is_cancelled = summary.stopped is not None, summary.state == "cancelled"
    again = tasks.to_retry(with_dead=True) if retry_dead else []
    if is_stopped and not retry_dead:
        again = tasks.to_retry(with_dead=False)
    cancelled = tasks.cancelled(first.id) if retry_dead or is_cancelled else []
    if retry_dead and (again or cancelled):
        say(f"trying {len(again) + len(cancelled):,} dead rows again")
    if cancelled:
        begin_submission(manifest.folder, cancelled)
    if is_stopped or retry_dead:
        failure_limit.lift(manifest, forget_dead=retry_dead)
    submission.retry(connection, again)
    return bool(again or cancelled or is_stopped)


def _is_whole(manifest: Manifest, last: record.Turn, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether the output is there, and no row was retried since it was written."""
    assert last.written is not None
    predicted = last.written["alone"] - last.written["dead"]
    ended = Counter(row["state"] for row in rows)
    is_settled = not ended.keys() - {"completed", "dead", "cancelled"}
    return is_settled and ended["completed"] == predicted and outputs.is_written_by(manifest)


def _lost_parts(
    connection: Connection, manifest: Manifest, turns: Sequence[record.Turn]
) -> list[int]:
    """Return the chunks that are done, and whose parts are gone or damaged."""
    chunks = record.states(connection, turns, record.CHUNKS)
    done = {chunk["chunk"] for chunk in chunks if chunk["state"] == "completed"}
    gone = set(range(manifest.chunks)) - {chunk["chunk"] for chunk in chunks}
    return sorted(number for number in done | gone if not outputs.is_whole(manifest.folder, number))


def say_what_is_new(connection: Connection, manifest: Manifest) -> None:
    """Say that this is a new run because the model or the input has changed."""
    if manifest.name is None:
        return
    found = record.find(connection, manifest.name)
    if found is None or found[1] == manifest.run:
        return
    try:
        before = load_manifest(found[0])
    except StorageFailed:
        changes = ["its manifest is gone"]
    else:
        changes = list(_changes(before, manifest)) or ["other options were given"]
    say(
        f"{' and '.join(changes)} since run {manifest.name} ({found[1]}): "
        f"this is a new run ({manifest.run})"
    )


def _changes(before: Manifest, now: Manifest) -> list[str]:
    return [
        f"the {what} has changed"
        for what, old, new in (
            ("model", before.model, replace(now.model, access=before.model.access)),
            ("input", before.input.digest, now.input.digest),
            ("output's path", before.output, now.output),
        )
        if old != new
    ]
