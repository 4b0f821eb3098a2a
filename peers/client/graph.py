"""Several tasks and the edges between them, submitted at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, overload

from peers.client.submission import Document, Options, document
from peers.client.task import Task
from peers.client.transport import SUBMIT_GRAPH, is_asynchronous, send, send_async
from peers.errors import BadGraph, BadTask
from peers.types import IDEMPOTENCY_KEY_MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peers.client.transport import Asynchronous, Synchronous
    from peers.types import ParentFailure

_KEY_MAX_LENGTH: Final = IDEMPOTENCY_KEY_MAX_LENGTH - len("/") - len("9999999999")
"""Whatever the number of a task that stands behind it."""


@dataclass(frozen=True, slots=True)
class Node:
    """A task of a graph; its `id` is known once the graph has been submitted."""

    nodes: Nodes
    name: str

    @property
    def id(self) -> int:
        """The task's id. Raises BadGraph before the graph was submitted."""
        return self.nodes.ids[self.name]


class Nodes:
    """The tasks that a graph has gathered so far."""

    def __init__(self, idempotency_key: str | None = None) -> None:
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= _KEY_MAX_LENGTH:
            raise BadTask(
                f"the idempotency_key of a graph must have 1 to {_KEY_MAX_LENGTH} characters, "
                f"not {len(idempotency_key)}",
                "Each of its tasks gets it with its own number behind.",
            )
        self._key = idempotency_key
        self._documents: list[Document] = []
        self._ids: dict[str, int] | None = None

    @property
    def ids(self) -> dict[str, int]:
        """The ids by the names of the nodes. Raises BadGraph before the graph was submitted."""
        if self._ids is None and self._documents:
            raise BadGraph("the graph has not been submitted yet", "Ids are known after its block.")
        return self._ids or {}

    def add(
        self,
        task: Task[..., Any] | str,
        /,
        *,
        after: Iterable[Node | int] | Node | int = (),
        on_parent_failure: ParentFailure | str | None = None,
        **args: object,
    ) -> Node:
        """Adds a task by its handler or its kind, after nodes of this graph and ids of older tasks.

        on_parent_failure holds for all of its parents: "hold", "cancel" or "run". Other options go
        with `task.options(…)`. Raises ArgsInvalid, BadTask, BadGraph.
        """
        if self._ids is not None:
            raise BadGraph("the graph has been submitted already", "Add tasks within its block.")
        parents = [after] if isinstance(after, Node | int) else after
        kind, options = (task.kind, task.bound) if isinstance(task, Task) else (task, Options())
        if on_parent_failure is not None:
            options = replace(options, on_parent_failure=on_parent_failure)
        within: list[str] = []
        older: list[int] = list(options.depends_on)
        for parent in parents:
            if isinstance(parent, int):
                older.append(parent)
            elif not isinstance(parent, Node):
                raise BadGraph(f"after must hold nodes of a graph or ids of tasks, not {parent!r}")
            elif parent.nodes is self:
                within.append(parent.name)
            else:
                older.append(parent.id)
        node = Node(self, str(len(self._documents) + 1))
        options = replace(options, depends_on=older)
        if self._key is not None and options.idempotency_key is None:
            options = replace(options, idempotency_key=f"{self._key}/{node.name}")
        fields = document(kind, args, options)
        self._documents.append({"name": node.name, "after": within, **fields})
        return node


class Graph(Nodes):
    """The end of its `with` block submits everything, an exception nothing."""

    def __init__(
        self, target: Synchronous | None = None, idempotency_key: str | None = None
    ) -> None:
        super().__init__(idempotency_key)
        self._target = target

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None and self._documents:
            self._ids = send(SUBMIT_GRAPH, self._documents, self._target)


class AsyncGraph(Nodes):
    """The same for an `async with` block, in an async session or connection."""

    def __init__(self, target: Asynchronous, idempotency_key: str | None = None) -> None:
        super().__init__(idempotency_key)
        self._target = target

    async def __aenter__(self) -> AsyncGraph:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None and self._documents:
            self._ids = await send_async(SUBMIT_GRAPH, self._documents, self._target)


@overload
def graph(target: Synchronous | None = None, *, idempotency_key: str | None = None) -> Graph: ...
@overload
def graph(target: Asynchronous, *, idempotency_key: str | None = None) -> AsyncGraph: ...
def graph(
    target: Synchronous | Asynchronous | None = None, *, idempotency_key: str | None = None
) -> Graph | AsyncGraph:
    """A graph to fill in a block, submitted at its end in one transaction and one round trip.

    Without a target it is committed at once (inside a running handler: through the peer); with a
    SQLAlchemy session or connection, or a psycopg one, it is part of that transaction. The async
    ones need `async with`.

    With an idempotency_key (1 to 489 characters) the same block run again yields the same ids and
    inserts nothing: each task is known by the key and its place in the block, so the block must add
    the same tasks in the same order. A task's own idempotency_key comes first. A handler, which may
    run again after it has submitted, should give one: graph(idempotency_key="nightly-2026-11-26"),
    or one made of current_task().id. It holds as long as the tasks' rows exist (until they are
    pruned). Raises BadTask.
    """
    if target is not None and is_asynchronous(target):
        return AsyncGraph(target, idempotency_key)
    return Graph(target, idempotency_key)
