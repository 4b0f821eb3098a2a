"""A task of a graph that is being built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from peers.types import TaskId


class _Ids(Protocol):
    @property
    def ids(self) -> dict[str, TaskId]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A task of a graph. Its `id` is known once the graph has been submitted."""

    graph: _Ids
    name: str

    @property
    def id(self) -> TaskId:
        """Return the task's id. Raises BadGraph before the graph was submitted."""
        return self.graph.ids[self.name]

    def __repr__(self) -> str:
        return f"<Node {self.name}>"
