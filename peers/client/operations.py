"""The operations of the client. Each function checks its arguments and returns a request.

`peers.client.forms` makes the functions that users call of them: `get`, `get_async`, `get_in`,
`Client.get` and `AsyncClient.get` share one definition and one docstring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from peers.client import statements
from peers.client.checks import id_of, reason_of, switch_of, text_of
from peers.client.filters import filters_of
from peers.client.kinds import Kind, kind_of, options_for
from peers.client.options import OptionFields, Options, options_from
from peers.client.statements import Request, find_statement
from peers.client.submission import document, document_of_many, plain_json
from peers.errors import BadArgument, BadTask
from peers.spans import sql_interval
from peers.types import UNIQUE_KEY_MAX_LENGTH, TaskState

if TYPE_CHECKING:
    from datetime import datetime

    from peers.client.records import GraphStatus, TaskLog, TaskRecord
    from peers.spans import Span
    from peers.types import TaskId


def submit(
    kind: str, args: Mapping[str, object] | None = None, **options: Unpack[OptionFields]
) -> Request[TaskId]:
    """Submit a task by the name of its kind and return its id. For the options, see Options.

    Raises ArgsInvalid, BadTask, BadGraph.
    """
    options_given = options_from(options, beside_args=True)
    fields = document(kind_of(kind), {} if args is None else args, options_given)
    return Request(statements.submit_statement(fields), fields)


def submit_many(
    kind: Kind,
    args: Iterable[Mapping[str, object]],
    *,
    unique_keys: Iterable[str | None] | None = None,
    **options: Unpack[OptionFields],
) -> Request[list[TaskId]]:
    """Submit a task for each of the args, all in one statement, and return their ids in this order.

    kind: its name, or a task, whose bound options apply. The options apply to all of the new tasks,
    so an idempotency_key or a unique_key is refused. unique_keys: the unique key of each task;
    None: it has none. A key may come several times: the first of them makes the task. They are
    submitted together or not at all. Some 10,000 at a time are fastest. Raises ArgsInvalid,
    BadTask, BadGraph.
    """
    name, shared = kind_of(kind), options_for(kind, options)
    if shared.idempotency_key is not None:
        raise BadTask(
            "tasks that are submitted together cannot share an idempotency_key",
            "Submit each of them with `submit`, or give the key to a graph.",
        )
    if shared.unique_key is not None:
        raise BadTask(
            "tasks that are submitted together cannot share a unique_key",
            "Pass unique_keys, with the key of each of them.",
        )
    if unique_keys is None:
        return Request(statements.SUBMIT_MANY, document_of_many(name, args, shared))
    keys = _keys(unique_keys)
    fields = document_of_many(name, args, shared, keys)
    _require_keys(keys, len(fields["args"]))
    return Request(statements.SUBMIT_MANY_UNIQUE, fields)


def get(id: int) -> Request[TaskRecord]:
    """Return the task with this id, with its result and its last failure. Raises TaskNotFound."""
    return Request(statements.GET, {"id": id_of(id)})


def find(
    kind: Kind | None = None,
    *,
    state: TaskState | str | None = None,
    queue: str | None = None,
    graph: int | None = None,
    metadata: Mapping[str, object] | None = None,
    limit: int = 100,
    before: int | None = None,
) -> Request[list[TaskRecord]]:
    """Return the tasks that match all of these filters, the newest first.

    kind: its name, or a task. metadata: a part of the task's own metadata. limit: 1 to 1000.
    before: only tasks with a smaller id, for the next page: `find(before=tasks[-1].id)`. No index
    finds completed and cancelled tasks; tasks are read from the newest one on, so filter by graph
    where you can. Raises BadArgument.
    """
    filters = filters_of(
        limit, before=(before, "task"), kind=kind, state=state, queue=queue, graph=graph,
        metadata=metadata,
    )  # fmt: skip
    return Request(find_statement(filters.get("state"), in_graph=graph is not None), filters)


def explain(id: int) -> Request[str]:
    """Return a sentence: why a task is not running, or how it ended. Raises TaskNotFound."""
    return Request(statements.EXPLAIN, {"id": id_of(id)})


def log(id: int, attempt: int | None = None) -> Request[TaskLog | None]:
    """Return the log of an attempt of this task; None: there is none.

    attempt: its number; None: the last one that has a log. Only tasks of kinds with keep_log have
    logs. Raises TaskNotFound, BadArgument.
    """
    return Request(statements.LOG, {"id": id_of(id), "attempt": _attempt(attempt)})


def cancel(id: int) -> Request[TaskState]:
    """Cancel a task and return its state.

    A task that waits is cancelled at once, together with the tasks that wait for it. A running
    task stays running until its peer has stopped the handler. Raises TaskNotFound.
    """
    return Request(statements.CANCEL, {"id": id_of(id)})


def retry(ids: int | Iterable[int], args: Mapping[str, object] | None = None) -> Request[int]:
    """Run dead tasks again with fresh attempts, and return how many.

    args: replaces the args of each of them; they are checked against the handler's annotations only
    when it runs. Either all of the tasks are retried or none.

    Raises TaskNotFound, NotDead, BadTask.
    """
    request: dict[str, Any] = {"ids": _ids(ids)}
    if args is not None:
        request["args"] = plain_json("args", args)
    return Request(statements.RETRY, request)


def discard(ids: int | Iterable[int]) -> Request[int]:
    """Discard dead tasks and return how many. They end cancelled, as do the tasks that they hold.

    Either all of them are discarded or none. Raises TaskNotFound, NotDead.
    """
    return Request(statements.DISCARD, {"ids": _ids(ids)})


def change(
    id: int,
    *,
    priority: int | None = None,
    scheduled_at: datetime | None = None,
    delay: Span | None = None,
    args: Mapping[str, object] | None = None,
    max_attempts: int | None = None,
    timeout: Span | None = None,
) -> Request[None]:
    """Change a task that waits; None leaves a value as it is. For the values, see Options.

    args: replaces all of them. They must be JSON, and are checked against the handler's annotations
    only when it runs.

    Raises TaskNotFound, BadTask, and ChildStarted when the task has started or ended.
    """
    Options(
        priority=priority, scheduled_at=scheduled_at, delay=delay, max_attempts=max_attempts,
        timeout=timeout,
    )  # fmt: skip
    values = {
        "id": id_of(id), "priority": priority, "max_attempts": max_attempts,
        "scheduled_at": None if scheduled_at is None else scheduled_at.isoformat(),
        "args": None if args is None else plain_json("args", args),
        "delay": sql_interval(delay),
        "timeout": sql_interval(timeout),
    }  # fmt: skip
    given = {name: value for name, value in values.items() if value is not None}
    return Request(statements.CHANGE, given)


def pause(queue: str, *, reason: str | None = None) -> Request[None]:
    """Stop claims from a queue. Running tasks go on.

    reason: is recorded in peers.action. Raises BadTask.
    """
    return Request(statements.PAUSE, {"queue": text_of("queue", queue), **reason_of(reason)})


def resume(queue: str, *, reason: str | None = None) -> Request[None]:
    """Allow claims from a paused queue again. reason: is recorded in peers.action."""
    return Request(statements.RESUME, {"queue": text_of("queue", queue), **reason_of(reason)})


def graph_status(graph: int) -> Request[GraphStatus]:
    """Return how far a graph is. Raises GraphNotFound."""
    return Request(statements.GRAPH_STATUS, {"graph": id_of(graph, "graph", name="graph")})


def find_graphs(
    *,
    name: str | None = None,
    paused: bool | None = None,
    limit: int = 100,
    before: int | None = None,
) -> Request[list[GraphStatus]]:
    """Return how far the graphs are that match all of these filters, the newest first.

    limit: 1 to 1000. before: only graphs with a smaller id, for the next page. Raises BadArgument.
    """
    filters = filters_of(limit, before=(before, "graph"), name=name, paused=paused)
    return Request(statements.FIND_GRAPHS, filters)


def cancel_graph(graph: int, *, dry_run: bool = False, reason: str | None = None) -> Request[int]:
    """Cancel the unfinished tasks of a graph, dead ones included, and return how many.

    dry_run: only count them. reason: is recorded in peers.action. Raises GraphNotFound.
    """
    request = {**_graph(graph, reason), "dry_run": switch_of("dry_run", dry_run)}
    return Request(statements.CANCEL_GRAPH, request)


def pause_graph(graph: int, *, reason: str | None = None) -> Request[int]:
    """Stop claims of a graph's tasks, and return how many of them are ready now.

    Tasks that are blocked or scheduled are paused too, but not counted. reason: is recorded in
    peers.action. Raises GraphNotFound.
    """
    return Request(statements.PAUSE_GRAPH, _graph(graph, reason))


def resume_graph(graph: int, *, reason: str | None = None) -> Request[int]:
    """Allow claims of a paused graph's tasks again, and return how many of them are ready now.

    Tasks that are blocked or scheduled are not counted. reason: is recorded in peers.action. Raises
    GraphNotFound.
    """
    return Request(statements.RESUME_GRAPH, _graph(graph, reason))


def retry_graph(graph: int, *, dry_run: bool = False, reason: str | None = None) -> Request[int]:
    """Run all dead tasks of a graph again, and return how many.

    dry_run: only count them. reason: is recorded in peers.action. Raises GraphNotFound.
    """
    request = {**_graph(graph, reason), "dry_run": switch_of("dry_run", dry_run)}
    return Request(statements.RETRY_GRAPH, request)


def _graph(graph: int, reason: str | None) -> dict[str, Any]:
    return {"graph": id_of(graph, "graph", name="graph"), **reason_of(reason)}


def _attempt(attempt: object) -> int | None:
    if attempt is None or (isinstance(attempt, int) and not isinstance(attempt, bool)):
        return attempt
    raise BadArgument(f"attempt must be a number, not {attempt!r}")


def _keys(unique_keys: object) -> list[str | None]:
    if isinstance(unique_keys, str | bytes | Mapping) or not isinstance(unique_keys, Iterable):
        raise BadTask(f"unique_keys must be a list, one for each of the args, not {unique_keys!r}")
    return list(unique_keys)


def _require_keys(keys: list[str | None], count: int) -> None:
    if len(keys) != count:
        raise BadTask(
            f"unique_keys must have one element for each of the {count} args, not {len(keys)}",
            "None submits a task without a unique key.",
        )
    for key in keys:
        if key is not None and not isinstance(key, str):
            raise BadTask(f"unique_keys must be strings or None, not {key!r}")
        if key is not None and not 1 <= len(key) <= UNIQUE_KEY_MAX_LENGTH:
            raise BadTask(
                f"each of the unique_keys must have 1 to {UNIQUE_KEY_MAX_LENGTH} characters, "
                f"not {len(key)}"
            )


def _ids(ids: int | Iterable[int]) -> list[int]:
    """Return the ids in order: all statements lock tasks in the order of their ids."""
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        return [id_of(ids, name="ids")]
    return sorted({id_of(each, name="ids") for each in ids})
