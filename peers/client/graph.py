"""Several tasks and the edges between them, submitted at once."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from peers.client.kinds import kind_of
from peers.client.node import Node
from peers.client.options import Document, OptionFields, Options, options_from
from peers.client.records import SubmittedGraph
from peers.client.statements import SUBMIT_GRAPH, Request
from peers.client.submission import document, plain_json
from peers.client.targets import is_async_target
from peers.client.task import Task
from peers.client.transport import perform, perform_async, perform_in, perform_in_async
from peers.errors import BadGraph, BadTask
from peers.types import IDEMPOTENCY_KEY_MAX_LENGTH, NAME_MAX_LENGTH

if TYPE_CHECKING:
    from peers.client.targets import AsyncTarget, SyncTarget
    from peers.types import TaskId

P = ParamSpec("P")
T = TypeVar("T")


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
        for field in ("name", "idempotency_key"):
            text = getattr(self, field)
            if text is not None and not isinstance(text, str):
                raise BadTask(f"the {field} of a graph must be a string, not {text!r}")
        if self.name is not None and not 1 <= len(self.name) <= NAME_MAX_LENGTH:
            raise BadTask(
                f"the name of a graph must have 1 to {NAME_MAX_LENGTH} characters, "
                f"not {len(self.name)}"
            )
        key = self.idempotency_key
        if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_LENGTH:
            raise BadTask(
                f"the idempotency_key of a graph must have 1 to {IDEMPOTENCY_KEY_MAX_LENGTH} "
                f"characters, not {len(key)}"
            )
        if self.metadata is not None:
            plain_json("metadata", self.metadata)


class GraphBuilder:
    """The tasks that have been added to a graph so far."""

    def __init__(self, options: GraphOptions) -> None:
        self._options = options
        self._documents: list[Document] = []
        self._submitted: SubmittedGraph | None = None

    @property
    def id(self) -> int:
        """Return the graph's id. Raises BadGraph before the submission, and without any task."""
        if self._submitted is None:
            raise BadGraph("the graph has not been submitted", "Its id is known after its block.")
        return self._submitted.id

    @property
    def ids(self) -> dict[str, TaskId]:
        """Return the ids by the names of the nodes. Raises BadGraph before the submission."""
        if self._submitted is None and self._documents:
            raise BadGraph("the graph has not been submitted yet", "Ids are known after its block.")
        return {} if self._submitted is None else self._submitted.tasks

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
        if self._submitted is not None:
            raise BadGraph("the graph has been submitted already", "Add tasks within its block.")
        if isinstance(task, Task):
            with task.hinting_at_keywords(args, kwargs):
                values = task.by_name(*args, **kwargs)
                return self._add(task.kind, values, task.bound)
        return self._add(kind_of(task), _only(args), options_from(kwargs, beside_args=True))

    def _add(self, kind: str, values: Mapping[str, object], options: Options) -> Node:
        node = Node(self, str(len(self._documents) + 1))
        siblings = [each for each in options.depends_on if self._has(each)]
        older = [each for each in options.depends_on if not self._has(each)]
        options = replace(options, depends_on=older)
        fields = document(kind, values, options)
        after = [each.name for each in siblings if isinstance(each, Node)]
        self._documents.append({"name": node.name, "after": after, **fields})
        return node

    def _has(self, parent: object) -> bool:
        return isinstance(parent, Node) and parent.graph is self

    def _request(self) -> Request[SubmittedGraph]:
        options = self._options
        fields = {
            "nodes": self._documents,
            "name": options.name,
            "idempotency_key": options.idempotency_key,
            "metadata": options.metadata and plain_json("metadata", options.metadata),
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return Request(SUBMIT_GRAPH, given)


def _only(args: tuple[Any, ...]) -> Mapping[str, object]:
    """Return the args of a kind, which are one dict or left out. Raises BadTask."""
    if len(args) > 1:
        raise BadTask(
            f"args of a kind must be one dict, not {len(args)} values",
            "Pass the parents as depends_on=[…].",
        )
    return {} if not args or args[0] is None else args[0]


class Graph(GraphBuilder):
    """A graph for a `with` block. The end of the block submits it, an exception submits nothing."""

    def __init__(self, perform: Perform, options: GraphOptions) -> None:
        super().__init__(options)
        self._perform = perform

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None and self._documents:
            self._submitted = self._perform(self._request())


class AsyncGraph(GraphBuilder):
    """A graph for an `async with` block."""

    def __init__(self, perform: PerformAsync, options: GraphOptions) -> None:
        super().__init__(options)
        self._perform = perform

    async def __aenter__(self) -> AsyncGraph:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None and self._documents:
            self._submitted = await self._perform(self._request())


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

    After the block, `id` is the graph's id, for `graph_status` and its verbs. Without a target the
    graph is committed at once (inside a running handler: by its peer). With a
    SQLAlchemy session or connection, a psycopg one, or Django's connection, it is part of that
    transaction. An async target needs `async with`; `graph_async` is the async form without one.

    name: 1 to 200 characters; names need not be unique. metadata: a JSON object.

    With an idempotency_key (1 to 500 characters) the same block run again returns the same ids and
    inserts nothing. The block must add the same tasks in the same order. A handler, which may run
    again after it has submitted, should pass one: graph(idempotency_key="nightly-2026-11-26"), or
    one made of current_task().id. It holds as long as the graph exists (until its tasks are
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
