"""Several tasks and the edges between them, submitted at once."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from peers.client.node import Node
from peers.client.statements import SUBMIT_GRAPH, Request
from peers.client.submission import Document, OptionFields, Options, document
from peers.client.targets import is_async_target
from peers.client.task import Task
from peers.client.transport import perform, perform_async, perform_in, perform_in_async
from peers.errors import BadGraph, BadTask
from peers.types import IDEMPOTENCY_KEY_MAX_LENGTH, NAME_MAX_LENGTH

if TYPE_CHECKING:
    from peers.client.targets import AsyncTarget, SyncTarget

P = ParamSpec("P")
T = TypeVar("T")

_KEY_MAX_LENGTH: Final = IDEMPOTENCY_KEY_MAX_LENGTH - len("/") - len("9999999999")
"""The key of each task is the graph's with a number behind it."""


class Perform(Protocol):
    """A way to perform requests."""

    def __call__(self, request: Request[T], /) -> T:
        """Perform the request."""
        ...


class PerformAsync(Protocol):
    """An async way to perform requests."""

    def __call__(self, request: Request[T], /) -> Coroutine[Any, Any, T]:
        """Perform the request."""
        ...


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How a graph is submitted: see `graph`. Raises BadTask."""

    name: str | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not 1 <= len(self.name) <= NAME_MAX_LENGTH:
            raise BadTask(
                f"the name of a graph must have 1 to {NAME_MAX_LENGTH} characters, "
                f"not {len(self.name)}"
            )
        key = self.idempotency_key
        if key is not None and not 1 <= len(key) <= _KEY_MAX_LENGTH:
            raise BadTask(
                f"the idempotency_key of a graph must have 1 to {_KEY_MAX_LENGTH} characters, "
                f"not {len(key)}",
                "The key of each of its tasks is made of it and a number.",
            )


class GraphBuilder:
    """The tasks that have been added to a graph so far."""

    def __init__(self, options: GraphOptions) -> None:
        self._options = options
        self._documents: list[Document] = []
        self._ids: dict[str, int] | None = None

    @property
    def ids(self) -> dict[str, int]:
        """Return the ids by the names of the nodes. Raises BadGraph before the submission."""
        if self._ids is None and self._documents:
            raise BadGraph("the graph has not been submitted yet", "Ids are known after its block.")
        return self._ids or {}

    @overload
    def add(self, task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Node: ...
    @overload
    def add(
        self,
        kind: str,
        args: Mapping[str, object] | None = None,
        /,
        **options: Unpack[OptionFields],
    ) -> Node: ...
    def add(self, task: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> Node:
        """Add a task: a handler with its args, or a kind with args and options like `submit`.

        The parents are an option, so that a handler's own args may have any names:
        `add(load.after(extract), day="monday")`, or `add("load", {"day": "monday"},
        depends_on=[extract])`. Raises ArgsInvalid, BadTask, BadGraph.
        """
        if self._ids is not None:
            raise BadGraph("the graph has been submitted already", "Add tasks within its block.")
        if isinstance(task, Task):
            kind, options, values = task.kind, task.bound, task.by_name(*args, **kwargs)
        else:
            kind, options, values = task, Options(**kwargs), dict(*args)
        if options.graph is not None:
            raise BadGraph("a task of this block cannot be in another graph", "Leave out graph=….")
        node = Node(self, str(len(self._documents) + 1))
        siblings = [each for each in options.depends_on if self._has(each)]
        older = [each for each in options.depends_on if not self._has(each)]
        options = replace(options, depends_on=older)
        if self._options.idempotency_key is not None and options.idempotency_key is None:
            options = replace(
                options, idempotency_key=f"{self._options.idempotency_key}/{node.name}"
            )
        fields = document(kind, values, options)
        after = [each.name for each in siblings if isinstance(each, Node)]
        self._documents.append({"name": node.name, "after": after, **fields})
        return node

    def _has(self, parent: object) -> bool:
        return isinstance(parent, Node) and parent.graph is self

    def _request(self) -> Request[dict[str, int]]:
        return Request(SUBMIT_GRAPH, self._documents)


class Graph(GraphBuilder):
    """A graph for a `with` block. The end of the block submits it, an exception submits nothing."""

    def __init__(self, perform: Perform, options: GraphOptions) -> None:
        super().__init__(options)
        self._perform = perform

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None and self._documents:
            self._ids = self._perform(self._request())


class AsyncGraph(GraphBuilder):
    """A graph for an `async with` block."""

    def __init__(self, perform: PerformAsync, options: GraphOptions) -> None:
        super().__init__(options)
        self._perform = perform

    async def __aenter__(self) -> AsyncGraph:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None and self._documents:
            self._ids = await self._perform(self._request())


@overload
def graph(
    target: SyncTarget | None = None,
    *,
    name: str | None = None,
    idempotency_key: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Graph: ...
@overload
def graph(
    target: AsyncTarget,
    *,
    name: str | None = None,
    idempotency_key: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> AsyncGraph: ...
def graph(
    target: SyncTarget | AsyncTarget | None = None,
    *,
    name: str | None = None,
    idempotency_key: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Graph | AsyncGraph:
    """Return a graph to fill in a `with` block, submitted at its end in one transaction.

    Without a target it is committed at once (inside a running handler: by its peer). With a
    SQLAlchemy session or connection, a psycopg one, or Django's connection, it is part of that
    transaction. An async target needs `async with`; `graph_async` is the async form without one.

    name: 1 to 200 characters; names need not be unique. metadata: a JSON object.

    With an idempotency_key (1 to 489 characters) the same block run again returns the same ids and
    inserts nothing. Each task is known by the key and its place in the block, so the block must add
    the same tasks in the same order. A task's own idempotency_key comes first. A handler, which may
    run again after it has submitted, should pass one: graph(idempotency_key="nightly-2026-11-26"),
    or one made of current_task().id. It holds as long as the tasks' rows exist (until they are
    pruned). Raises BadTask.
    """
    options = GraphOptions(name, idempotency_key, metadata)
    if target is None:
        return Graph(perform, options)
    if is_async_target(target):
        return AsyncGraph(_in_async(target), options)
    return Graph(_in(target), options)


def graph_async(
    *,
    name: str | None = None,
    idempotency_key: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> AsyncGraph:
    """Return a graph to fill in an `async with` block. See `graph`."""
    return AsyncGraph(perform_async, GraphOptions(name, idempotency_key, metadata))


def _in(target: SyncTarget) -> Perform:
    def perform_here(request: Request[T], /) -> T:
        return perform_in(target, request)

    return perform_here


def _in_async(target: AsyncTarget) -> PerformAsync:
    async def perform_here(request: Request[T], /) -> T:
        return await perform_in_async(target, request)

    return perform_here
