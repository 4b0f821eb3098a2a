"""The operations on many tasks. Each function checks its arguments and returns a request.

`peers.client.forms` makes the functions that users call of them, as in `peers.client.operations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from peers.client import bulk_statements as statements
from peers.client.checks import id_of, moment_of, reason_of, switch_of, text_of
from peers.client.filters import checked
from peers.client.kinds import Kind
from peers.client.statements import Request
from peers.client.submission import plain_json
from peers.errors import BadArgument
from peers.types import TaskState

if TYPE_CHECKING:
    from peers.client.bulk_statements import BulkResult

_MOST: Final = (1 << 31) - 1
_TIME_EXAMPLE: Final = "For example, datetime.now(timezone.utc) - timedelta(hours=2)."
_UNFINISHED: Final = (
    TaskState.BLOCKED, TaskState.SCHEDULED, TaskState.READY, TaskState.RUNNING,
)  # fmt: skip


class DeadFilter(TypedDict, total=False):
    """Which dead tasks an operation is for: those that match all of these keywords."""

    kind: Kind
    """Its name, or a task."""
    queue: str
    error_type: str
    """The name of the last exception, or timeout, crash, lost …"""
    error: str
    """A part of "type: message" of the last failure, in upper or lower case."""
    frame: str
    """Where it was raised, as in the view peers.dead_cause: shop/tasks.py:42 in charge."""
    since: datetime
    """The task died at this time or later."""
    until: datetime
    """The task died before this time."""
    graph: int
    ids: Iterable[int]
    all: bool
    """All of them: an operation without any filter is refused."""


class UnfinishedFilter(DeadFilter, total=False):
    """Which unfinished tasks to cancel. `since` and `until` are about when they were submitted."""

    state: TaskState | str
    """blocked, scheduled, ready or running."""


def retry_dead(
    *,
    args: Mapping[str, object] | None = None,
    dry_run: bool = False,
    reason: str | None = None,
    max_tasks: int | None = None,
    **filters: Unpack[DeadFilter],
) -> Request[BulkResult]:
    """Run the dead tasks that match again with fresh attempts.

    filters: kind, queue, error_type, error, frame, since, until, graph, ids, see DeadFilter; or
    all=True. args: replaces the args of each of them. dry_run: only count them. reason: is recorded
    in peers.action. max_tasks: at most so many; call it again for the others. Tasks that another
    session has locked are left out. Raises BadArgument, BadTask.
    """
    request = _request(filters, dry_run, reason, max_tasks)
    if args is not None:
        request["args"] = plain_json("args", args)
    return Request(statements.RETRY_DEAD, request)


def discard_dead(
    *,
    dry_run: bool = False,
    reason: str | None = None,
    max_tasks: int | None = None,
    **filters: Unpack[DeadFilter],
) -> Request[BulkResult]:
    """Discard the dead tasks that match. They end cancelled, as do the tasks that they hold.

    For the arguments, see `retry_dead`. Raises BadArgument.
    """
    return Request(statements.DISCARD_DEAD, _request(filters, dry_run, reason, max_tasks))


def cancel_tasks(
    *,
    dry_run: bool = False,
    reason: str | None = None,
    max_tasks: int | None = None,
    **filters: Unpack[UnfinishedFilter],
) -> Request[BulkResult]:
    """Cancel the unfinished tasks that match, together with the tasks that wait for them.

    For the arguments, see `retry_dead` and UnfinishedFilter. A running task stays running until its
    peer has stopped the handler. Raises BadArgument.
    """
    state = filters.get("state")
    if state is not None and state not in _UNFINISHED:
        raise BadArgument(
            f"state must be one of {', '.join(_UNFINISHED)}, not {state!r}",
            "discard_dead ends dead tasks.",
        )
    return Request(
        statements.CANCEL_TASKS, _request(filters, dry_run, reason, max_tasks, ("state",))
    )


def _request(
    filters: Mapping[str, Any],
    dry_run: object,
    reason: str | None,
    max_tasks: object,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "filter": _filter(filters, more), "dry_run": switch_of("dry_run", dry_run),
        **reason_of(reason),
    }  # fmt: skip
    if max_tasks is not None:
        if type(max_tasks) is not int or not 1 <= max_tasks <= _MOST:
            raise BadArgument(
                f"max_tasks must be 1 or more, not {max_tasks!r}",
                "Leave it out to act on all tasks at once.",
            )
        request["max_tasks"] = max_tasks
    return request


def _filter(filters: Mapping[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    """Return the filter as SQL reads it. Raises BadArgument."""
    known = (*DeadFilter.__annotations__, *more)
    if unknown := [name for name in filters if name not in known]:
        raise BadArgument(
            f"there is no filter {', '.join(unknown)}", f"The filters are {', '.join(known)}."
        )
    given = {name: value for name, value in filters.items() if value is not None}
    if given.get("all") is False:
        del given["all"]
    if not given:
        raise BadArgument(
            "no filter is given: it would match every task",
            "Pass all=True if that is what you want.",
        )
    found = checked(**{n: v for n, v in given.items() if n in ("kind", "queue", "state", "graph")})
    for name in ("error_type", "error", "frame"):
        if name in given:
            found[name] = text_of(name, given[name])
    for name in ("since", "until"):
        if name in given:
            found[name] = moment_of(name, given[name], hint=_TIME_EXAMPLE).isoformat()
    if "ids" in given:
        found["ids"] = _ids(given["ids"])
    if "all" in given:
        found["all"] = switch_of("all", given["all"])
    return found


def _ids(ids: object) -> list[int]:
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise BadArgument(f"ids must be a list of task ids, not {ids!r}")
    return [id_of(each, name="ids") for each in ids]
