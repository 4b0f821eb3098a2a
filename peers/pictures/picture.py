"""What a picture shows: nodes that stand for one task or many, and edges between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

HELD: Final = "held"
"""The state of a blocked task that cannot run before a dead ancestor is retried."""
STATES: Final = (
    "dead", HELD, "running", "ready", "scheduled", "blocked", "cancelled", "completed",
)  # fmt: skip
"""The worst first. A node has the colour of the worst state of its tasks."""
POLICIES: Final = {
    "hold": "the child waits while its parent is dead",
    "cancel": "the child is cancelled with its parent",
    "run": "the child runs anyway",
}
TIMES: Final = "\N{MULTIPLICATION SIGN}"
_IDS_SHOWN: Final = 3


@dataclass(slots=True)
class Node:
    """Some tasks, mostly of one kind."""

    kinds: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)
    dead_ids: list[int] = field(default_factory=list)
    is_focus: bool = False
    """It is the task that was asked for."""
    is_outside: bool = False
    """It belongs to another graph."""
    in_sequence: bool = False
    """Its tasks run one after the other."""

    @property
    def tasks(self) -> int:
        """Return how many tasks it stands for."""
        return len(self.ids)

    @property
    def state(self) -> str:
        """Return the worst state of its tasks."""
        return next((state for state in STATES if self.states[state]), STATES[-1])

    @property
    def name(self) -> str:
        """Return its kind, and how many tasks of it there are."""
        if len(self.kinds) > 1:
            return f"{self.tasks:,} tasks of {len(self.kinds):,} kinds"
        [kind] = self.kinds
        return kind if self.tasks == 1 else f"{self.tasks:,} {TIMES} {kind}"

    @property
    def states_in_words(self) -> str:
        """Return how many tasks are in which state, most first: `9,950 completed, 2 dead`."""
        if self.tasks == 1:
            return self.state
        return counted(self.states)

    @property
    def note(self) -> str:
        """Return the ids that one needs to go on, and what else is special."""
        parts = []
        if self.tasks == 1:
            parts.append(f"task {self.ids[0]}")
        elif self.dead_ids:
            parts.append("dead: " + _first(self.dead_ids))
        else:
            parts.append("tasks " + _first(self.ids))
        if self.in_sequence:
            parts.append("one after the other")
        if self.is_outside:
            parts.append("in another graph")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Link:
    """Some edges of the same policy from one node to another, by their places in the picture."""

    parent: int
    child: int
    policy: str
    edges: int


@dataclass(frozen=True, slots=True)
class Picture:
    """The nodes in an order in which parents come before their children, and their links."""

    title: str
    nodes: list[Node]
    links: list[Link]

    @property
    def tasks(self) -> int:
        """Return how many tasks it shows."""
        return sum(node.tasks for node in self.nodes)

    @property
    def states(self) -> Counter[str]:
        """Return how many tasks are in which state."""
        total: Counter[str] = Counter()
        for node in self.nodes:
            total.update(node.states)
        return total

    @property
    def heading(self) -> str:
        """Return its title with the number of tasks and their states."""
        noun = "task" if self.tasks == 1 else "tasks"
        return ", ".join(
            filter(None, [f"{self.title}: {self.tasks:,} {noun}", counted(self.states)])
        )


def counted(states: Counter[str]) -> str:
    """Return how many tasks are in which state, as a text."""
    return ", ".join(f"{count:,} {state}" for state, count in states.most_common() if count)


def clean(text: str) -> str:
    """Return a text on one line, without characters that change how others are shown."""
    return " ".join(
        "".join(
            each if each.isprintable() or each.isspace() else ascii(each)[1:-1] for each in text
        ).split()
    )


def _first(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:_IDS_SHOWN]))
    return f"{shown}, …" if len(ids) > _IDS_SHOWN else shown
