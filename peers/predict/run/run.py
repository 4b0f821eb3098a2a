"""A run: a graph of tasks in the database, and its verbs.

The graph's idempotency key is made of the run's id. Its tasks are the chunks, the isolated rows and
the assembling tasks, of which each submission adds one or two.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

import peers
from peers.predict import kinds, outputs
from peers.predict.errors import PredictError, RunState
from peers.predict.run import failure_queries, queries, submission
from peers.predict.run.messages import say
from peers.predict.run.summarize import summarize
from peers.predict.run.summary import Summary
from peers.predict.run.watch import watch
from peers.predict.tasks import failure_limit
from peers.predict.tasks.row_submissions import begin_submission

if TYPE_CHECKING:
    from peers.predict.run.database import Connection
    from peers.predict.run.prepare import Plan
    from peers.predict.spec import Manifest

_MAX_SUBMISSIONS: Final = 100
_LIVE: Final = frozenset({"blocked", "scheduled", "ready", "running"})
_CANCEL_TIMEOUT: Final = 120.0
"""Seconds. A peer that died loses its tasks when its lease expires."""
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """A run in the database behind this connection. `graph`: the id of its graph."""

    connection: Connection
    manifest: Manifest
    graph: int

    @classmethod
    def open(cls, connection: Connection, manifest: Manifest) -> Run:
        """Return the run of this manifest. Raises PredictError if its tasks were deleted."""
        found = queries.find_graph(connection, manifest.run)
        if found is None:
            raise _deleted(manifest)
        return cls(connection, manifest, found["id"])

    @classmethod
    def submit(cls, connection: Connection, plan: Plan, *, overwrite: bool) -> Run | None:
        """Submit the chunks and the assembling task of a new run; return None for a known one."""
        manifest = plan.manifest
        metadata = json.dumps({
            "run": manifest.run, "name": manifest.name, "manifest": str(manifest.path),
            "output": manifest.output,
        })  # fmt: skip
        name = manifest.name or manifest.run
        with connection.transaction():
            graph = queries.create_graph(connection, name, manifest.run, metadata)
            if graph is None:
                run = cls.open(connection, manifest)
                if queries.assemblies(connection, run.graph):
                    return None
            else:
                run = cls(connection, manifest, graph)
            chunks = range(len(plan.chunks))
            submission.submit(connection, plan, run.graph, chunks, [], 1, overwrite=overwrite)
        return run

    def watch(
        self, on_look: Callable[[], None] = lambda: None, *, has_own_peer: bool = False
    ) -> Summary:
        """Wait until the run is over or cannot continue; see `watch`."""
        return watch(self, on_look, has_own_peer=has_own_peer)

    def summary(self, *, with_dead: bool = True) -> Summary:
        """Sum up the run so far; see `summarize`. Raises PredictError if its tasks were deleted."""
        found = summarize(self.connection, self.manifest, self.graph, with_dead=with_dead)
        if found is None:
            raise _deleted(self.manifest)
        return found

    def resume(self, plan: Plan, *, overwrite: bool, retry_dead: bool) -> Summary | None:
        """Submit what the run still lacks; return its summary if it lacks nothing."""
        summary = self.summary()
        is_over_limit = failure_limit.limit_exceeded(self.manifest) is not None
        if summary.stopped is not None and not retry_dead and is_over_limit:
            return summary
        is_resumed = self._resume_rows(summary, retry_dead=retry_dead)
        if summary.state == "running" and not is_resumed:
            say(f"continuing run {self.manifest.run}: {summary.handled:,} rows are done")
            return None
        is_settled = summary.state == "done" and not is_resumed and not overwrite
        if is_settled and self._is_output_current():
            say(f"run {self.manifest.run} is done already: nothing is missing")
            return summary
        lost = self._lost_parts()
        say(
            f"continuing run {self.manifest.run}, which is {summary.state}"
            + (f"; {len(lost):,} lost parts will be made again" if lost else "")
        )
        self.submit_missing(plan, lost, overwrite=overwrite)
        return None

    def submit_missing(self, plan: Plan, lost: Sequence[int], *, overwrite: bool) -> None:
        """Submit chunks that are dead, cancelled or `lost`, and a task that assembles the output.

        Dead tasks are replaced by new ones, and discarded.
        """
        before = self._assemblies()
        last = before[-1]
        chunks = queries.states(self.connection, self.graph, queries.CHUNKS)
        dead = [chunk["id"] for chunk in chunks if chunk["state"] == "dead"]
        dead += [assembly.id for assembly in before if assembly.state == "dead"]
        again = {*lost, *(one["chunk"] for one in chunks if one["state"] in {"dead", "cancelled"})}
        live = [one["id"] for one in chunks if one["state"] in _LIVE and one["chunk"] not in again]
        peers.discard_in(self.connection, dead)
        if again and last.state in _LIVE:  # it does not wait for the new chunks
            peers.cancel_in(self.connection, last.id)
        if not (again or dead) and last.state in _LIVE:
            return
        if last.submission >= _MAX_SUBMISSIONS:
            raise PredictError(
                f"run {self.manifest.run} was submitted {_MAX_SUBMISSIONS} times",
                "Give the run another --run NAME to start it again.",
            )
        submission.submit(
            self.connection, plan, self.graph, sorted(again), live, last.submission + 1,
            overwrite=overwrite,
        )  # fmt: skip

    def retry_lost_rows(self, plan: Plan, *, overwrite: bool) -> bool:
        """Retry rows whose attempts were used up by dying peers; return whether there were any."""
        lost = queries.lost_rows(self.connection, self.graph)
        if lost:
            say(f"retrying {len(lost):,} rows that died with their peers")
            self._retry(lost)
            self.submit_missing(plan, [], overwrite=overwrite)
        return bool(lost)

    def cancel(self) -> tuple[Summary, int]:
        """Cancel all tasks that have not ended; return the summary and how many there were.

        Dead rows stay dead letters. Raises RunState if the run is done, or if tasks do not stop.
        """
        ended: set[int] = set()
        give_up = time.monotonic() + _CANCEL_TIMEOUT
        while live := queries.live_tasks(self.connection, self.graph):
            ended |= {task.id for task in live}
            for task in live:
                self._cancel(task)
            if all(task.cancel_requested for task in live):
                if time.monotonic() > give_up:
                    raise RunState(
                        f"{len(live):,} tasks of run {self.manifest.run} are still running, "
                        "although their peers were asked to stop them",
                        "Run the same command again, or check `peers status --running`.",
                    )
                time.sleep(_POLL_SECONDS)  # tasks that still run may submit others
        summary = self.summary()
        if not ended and summary.state == "done":
            raise RunState(f"run {self.manifest.run} is done: there is nothing to cancel")
        return summary, len(ended)

    def _cancel(self, task: queries.LiveTask) -> None:
        if task.cancel_requested:
            return
        try:
            peers.cancel_in(self.connection, task.id)
        except psycopg.errors.DeadlockDetected:
            return  # the next round cancels it

    def _assemblies(self) -> list[queries.Assembly]:
        return queries.assemblies(self.connection, self.graph)

    def _retry(self, ids: Sequence[int]) -> None:
        peers.retry_in(self.connection, ids)

    def _resume_rows(self, summary: Summary, *, retry_dead: bool) -> bool:
        """Retry rows that a stop or a cancellation ended, and dead rows if `retry_dead`.

        Return whether there is anything to do again.
        """
        is_stopped, is_cancelled = summary.stopped is not None, summary.state == "cancelled"
        again: list[int] = []
        if retry_dead or is_stopped:
            again = failure_queries.rows_to_retry(self.connection, self.graph, with_dead=retry_dead)
        cancelled: list[int] = []
        if retry_dead or is_cancelled:
            cancelled = queries.cancelled_rows(self.connection, self.graph)
        if retry_dead and (again or cancelled):
            say(f"retrying {len(again) + len(cancelled):,} dead rows")
        if cancelled:
            begin_submission(self.manifest.folder, cancelled)
        if is_stopped or retry_dead:
            failure_limit.clear(self.manifest, forget_dead=retry_dead)
        self._retry(again)
        return bool(again or cancelled or is_stopped)

    def _is_output_current(self) -> bool:
        """Return whether the output exists, and no row was retried since it was written."""
        written = self._assemblies()[-1].written
        assert written is not None
        rows = queries.states(self.connection, self.graph, queries.ROWS)
        ended: Counter[Any] = Counter(row["state"] for row in rows)
        predicted = written["isolated"] - written["dead"]
        is_settled = not ended.keys() - {"completed", "dead", "cancelled"}
        return (
            is_settled and ended["completed"] == predicted and outputs.is_written_by(self.manifest)
        )

    def _lost_parts(self) -> list[int]:
        """Return the chunks that are done, but whose parts are missing or damaged."""
        chunks = queries.states(self.connection, self.graph, queries.CHUNKS)
        done = {chunk["chunk"] for chunk in chunks if chunk["state"] == "completed"}
        unknown = set(range(self.manifest.chunks)) - {chunk["chunk"] for chunk in chunks}
        folder = self.manifest.folder
        return sorted(number for number in done | unknown if not outputs.is_whole(folder, number))


def kind_of_chunks(manifest: Manifest) -> str:
    """Return the kind of the run's chunk tasks."""
    return kinds.REMOTE if manifest.asynchronous else kinds.CHUNK


def _deleted(manifest: Manifest) -> PredictError:
    return PredictError(
        f"the tasks of run {manifest.run} were deleted", "Run the same command again."
    )
