"""Act on many tasks in batches, so that locks are held briefly, and show the progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peers.cli import output, queries
from peers.cli.database import persistently
from peers.cli.exact_json import written
from peers.cli.rows import rows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import LiteralString

    from peers.cli.rows import Row
    from peers.database.connection import Connection

BATCH: Final = 1000
"""A batch of so many tasks takes about 0.1 s."""

VERBS: Final[Mapping[str, LiteralString]] = {
    "retry": """
        select * from peers.retry_dead(
            %(filter)s::jsonb, %(dry_run)s, %(reason)s, %(args)s::jsonb)""",
    "discard": "select * from peers.discard_dead(%(filter)s::jsonb, %(dry_run)s, %(reason)s)",
    "cancel": "select * from peers.cancel_tasks(%(filter)s::jsonb, %(dry_run)s, %(reason)s)",
}
"""The statement of each verb."""
DONE: Final = {"retry": "retried", "discard": "discarded", "cancel": "cancelled"}


class Effect(NamedTuple):
    """How many tasks a verb changed or would change, and how many of their descendants."""

    tasks: int
    children: int


NO_EFFECT: Final = Effect(0, 0)
IDS_SHOWN: Final = 5


def tasks_with_ids(noun: str, tasks: int, ids: Sequence[int]) -> str:
    """Return how many tasks there are, with the first ids."""
    shown = ", ".join(map(str, ids[:IDS_SHOWN])) + (", …" if len(ids) > IDS_SHOWN else "")
    return output.count(tasks, noun) + (f" ({shown})" if ids else "")


def say_nothing_changed() -> None:
    """Say how to do what a preview has shown."""
    output.say("hint: nothing was changed; the same command without --dry-run does it.")


def preview(
    connection: Connection, args: argparse.Namespace, verb: str, filter: Mapping[str, Any]
) -> Effect:
    """Return what the verb would do. Nothing changes."""
    row = _call(connection, args, verb, filter, dry_run=True)
    return Effect(row["tasks"], row["children"])


def apply(
    connection: Connection,
    args: argparse.Namespace,
    verb: str,
    filter: Mapping[str, Any],
    ids: Sequence[int],
) -> Effect:
    """Apply the verb to these tasks, in batches, as far as they still match the filter.

    The ids are fixed before the first batch: a retried task that dies again at once is not retried
    again. Each batch is a transaction. After Ctrl-C, stderr says how much was done.

    A task that was cancelled as a descendant of a task in an earlier batch counts as a task, as in
    the preview.
    """
    tasks = children = 0
    began = queries.now(connection)
    progress = _Progress(len(ids))
    try:
        for first in range(0, len(ids), BATCH):
            batch = {**filter, "ids": list(ids[first : first + BATCH])}
            early = _cancelled_since(connection, batch["ids"], began) if children else 0
            row = _call(connection, args, verb, batch, dry_run=False)
            tasks += row["tasks"] + early
            children += row["children"] - early
            progress.show(first + len(batch["ids"]))
    except BaseException:
        progress.end()
        if len(ids) > BATCH:
            whole = output.count(len(ids), "task")  # the batch that failed may have taken effect
            output.say(f"stopped: at least {tasks:,} of {whole} {DONE[verb]}")
        raise
    progress.end()
    return Effect(tasks, children)


def _call(
    connection: Connection,
    args: argparse.Namespace,
    verb: str,
    filter: Mapping[str, Any],
    *,
    dry_run: bool,
) -> Row:
    new_args = getattr(args, "args", None)
    values = {
        "filter": written(dict(filter)),
        "dry_run": dry_run,
        "reason": args.reason,
        "args": None if new_args is None else written(new_args),
    }
    [row] = persistently(rows, connection, VERBS[verb], **values)
    return row


def _cancelled_since(connection: Connection, ids: Sequence[int], began: datetime) -> int:
    """Return how many of these tasks were cancelled after this time."""
    [row] = rows(
        connection,
        """
        select count(*) as tasks from peers.task t
        where t.id = any (%(ids)s) and t.state = 'cancelled'
          and t.finished_at >= %(began)s""",
        ids=list(ids),
        began=began,
    )
    return int(row["tasks"])


class _Progress:
    """Show on a terminal's stderr how far it is, if there is more than one batch."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._is_shown = total > BATCH and sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Show that so many tasks are done."""
        if self._is_shown:
            print(f"\r{done:,} of {self._total:,} tasks", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line."""
        if self._is_shown:
            print(file=sys.stderr)
            self._is_shown = False
