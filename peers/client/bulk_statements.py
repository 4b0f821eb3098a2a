"""The SQL of the client's operations on many tasks; see `peers.client.statements`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from peers.client.statements import Statement


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What an operation on many tasks did, or with `dry_run` would do."""

    tasks: int
    """How many tasks it acted on."""
    children: int
    """How many descendants of these will run (`retry_dead`), or are cancelled with them."""
    task_ids: list[int]
    """The ids of the first 100 of the tasks."""


def _result(row: Any) -> BulkResult:
    return BulkResult(row["tasks"], row["children"], row["task_ids"])


RETRY_DEAD: Final = Statement(
    "retry_dead",
    """
    select to_json(r)::text
    from (select cast(:document as jsonb)) as request(d)
    cross join lateral peers.retry_dead(
        d -> 'filter', (d ->> 'dry_run')::boolean, d ->> 'reason', d -> 'args',
        (d ->> 'max_tasks')::integer) as r
    """,
    _result,
)
DISCARD_DEAD: Final = Statement(
    "discard_dead",
    """
    select to_json(r)::text
    from (select cast(:document as jsonb)) as request(d)
    cross join lateral peers.discard_dead(
        d -> 'filter', (d ->> 'dry_run')::boolean, d ->> 'reason',
        (d ->> 'max_tasks')::integer) as r
    """,
    _result,
)
CANCEL_TASKS: Final = Statement(
    "cancel_tasks",
    """
    select to_json(r)::text
    from (select cast(:document as jsonb)) as request(d)
    cross join lateral peers.cancel_tasks(
        d -> 'filter', (d ->> 'dry_run')::boolean, d ->> 'reason',
        (d ->> 'max_tasks')::integer) as r
    """,
    _result,
)
