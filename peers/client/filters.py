"""Check the filters of the functions that find tasks, graphs, limits and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from peers.client.checks import id_of, switch_of, text_of
from peers.client.kinds import Kind, kind_of
from peers.client.submission import plain_json
from peers.errors import ArgsInvalid, BadArgument
from peers.types import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

FIND_LIMIT_MAX: Final = 1000


def _state(name: str, value: str) -> TaskState:
    if value not in list(TaskState):
        raise BadArgument(f"{name} must be one of {', '.join(TaskState)}, not {value!r}")
    return TaskState(value)


def _metadata(name: str, value: Mapping[str, object]) -> dict[str, Any]:
    try:
        return plain_json(name, value)
    except ArgsInvalid as error:
        raise BadArgument(error.message, error.hint) from None


def _kind(_name: str, value: Kind) -> str:
    return kind_of(value)


def _graph(name: str, value: object) -> int:
    return id_of(value, "graph", name=name)


_CHECKS: Final[dict[str, Callable[[str, Any], object]]] = {
    "kind": _kind, "queue": text_of, "name": text_of, "after": text_of, "paused": switch_of,
    "state": _state, "graph": _graph, "metadata": _metadata,
}  # fmt: skip


def checked(**filters: object) -> dict[str, Any]:
    """Return the filters that are given, as a request has them. Raises BadArgument."""
    return {
        name: _CHECKS[name](name, value) for name, value in filters.items() if value is not None
    }


def filters_of(
    limit: int, *, before: tuple[object, str] | None = None, **filters: object
) -> dict[str, Any]:
    """Return the filters that are given, with the limit, as a request has them.

    before: an id, and what it is the id of; None: the pages continue `after` a name. Raises
    BadArgument.
    """
    if type(limit) is not int or not 1 <= limit <= FIND_LIMIT_MAX:
        page = "after" if before is None else "before"
        raise BadArgument(
            f"limit must be 1 to {FIND_LIMIT_MAX}, not {limit!r}",
            f"Read more in pages, with {page}=….",
        )
    found: dict[str, Any] = {"limit": limit}
    if before is not None and before[0] is not None:
        found["before"] = id_of(*before, name="before")
    return {**found, **checked(**filters)}
