"""Fold a graph of many tasks into a picture of few nodes.

Tasks become one node if they are of the same kind and have the same parents and children: first
tasks, then the nodes that these have become, level by level. If too many nodes are left, nodes in a
row are folded, then all tasks of a kind on a level, and finally whole levels. Every step is linear.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Final

from peers.pictures.picture import HELD, Link, Node, Picture
from peers.pictures.read import Edge, Tasks

MAX_NODES: Final = 60


def fold(found: Tasks, title: str, max_nodes: int | None, focus: int | None = None) -> Picture:
    """Return a picture with at most `max_nodes` nodes; None: a node for each task."""
    graph = _Graph(found, focus)
    groups: Sequence[Hashable] = range(len(graph.ids))
    if max_nodes is not None:
        for grouping in (
            graph.apart, graph.alike, graph.in_rows, graph.by_kind_and_level,
            lambda: graph.by_level(max_nodes),
        ):  # fmt: skip
            groups = grouping()
            if len(set(groups)) <= max_nodes:
                break
    return graph.picture(title, groups)


class _Graph:
    """The tasks by their places in a topological order, parents first."""

    def __init__(self, found: Tasks, focus: int | None) -> None:
        self._edges = _without_cycles(found)
        by_id = {task.id: task for task in found.tasks}
        self.ids = _topological([task.id for task in found.tasks], self._edges)
        place = {task: number for number, task in enumerate(self.ids)}
        self._kinds = [by_id[task].kind for task in self.ids]
        self._parents: list[list[tuple[int, str]]] = [[] for _ in self.ids]
        self._children: list[list[tuple[int, str]]] = [[] for _ in self.ids]
        for edge in self._edges:
            parent, child = place[edge.parent], place[edge.child]
            self._parents[child].append((parent, edge.policy))
            self._children[parent].append((child, edge.policy))
        self._focus = None if focus is None else place.get(focus)
        self._outside = found.outside
        self._states = [by_id[task].state for task in self.ids]
        self._mark_held({(place[e.parent], place[e.child]) for e in self._edges if e.waived})
        self._levels = self._find_levels()

    def _mark_held(self, waived: set[tuple[int, int]]) -> None:
        """Give blocked tasks that wait for a dead ancestor a state of their own."""
        for parent, state in enumerate(self._states):
            if state in ("dead", HELD):
                for child, policy in self._children[parent]:
                    waits = state == HELD or policy == "hold"
                    if waits and self._states[child] == "blocked" and (parent, child) not in waived:
                        self._states[child] = HELD

    def _find_levels(self) -> list[int]:
        levels = [0] * len(self.ids)
        for child, parents in enumerate(self._parents):
            levels[child] = max((levels[parent] + 1 for parent, _ in parents), default=0)
        return levels

    # ----------------------------------------------------------------- which tasks are one node

    def apart(self) -> Sequence[Hashable]:
        """Give each task a node of its own."""
        return range(len(self.ids))

    @functools.cache  # noqa: B019  # a graph is drawn once
    def alike(self) -> list[Hashable]:
        """Group tasks of a kind whose parents are in the same groups, and whose children are."""
        numbers: dict[Hashable, int] = {}
        groups: list[int] = []
        for task, kind in enumerate(self._kinds):
            parents = frozenset((groups[parent], policy) for parent, policy in self._parents[task])
            key = (kind, self.ids[task] in self._outside, task == self._focus, parents)
            groups.append(numbers.setdefault(key, len(numbers)))
        numbers = {}
        for task in reversed(range(len(groups))):
            children = frozenset((groups[child], policy) for child, policy in self._children[task])
            # children have their final groups, which are negative
            groups[task] = -1 - numbers.setdefault((groups[task], children), len(numbers))
        return list(groups)

    def in_rows(self) -> list[Hashable]:
        """Group tasks that are alike, and groups that form a chain without branches."""
        groups = self.alike()
        parents: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
        children: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
        for child, edges in enumerate(self._parents):
            for parent, _ in edges:
                parents[groups[child]].add(groups[parent])
                children[groups[parent]].add(groups[child])
        focus = None if self._focus is None else groups[self._focus]
        row_of: dict[Hashable, Hashable] = {}
        kind_of: dict[Hashable, str] = {}
        for task, group in enumerate(groups):  # parents come first
            if group in row_of:
                continue
            kind_of[group] = self._kinds[task]
            row_of[group] = group
            if group != focus and len(parents[group]) == 1:
                [before] = parents[group]
                is_row = len(children[before]) == 1 and before != focus
                if is_row and kind_of[before] == kind_of[group]:
                    row_of[group] = row_of[before]
        return [row_of[group] for group in groups]

    def by_kind_and_level(self) -> list[Hashable]:
        """Group the tasks of a kind on a level; those with trouble stay apart from the others."""
        return [
            (level, kind, state in ("dead", HELD), task == self._focus)
            for task, (level, kind, state) in enumerate(
                zip(self._levels, self._kinds, self._states, strict=True)
            )
        ]

    def by_level(self, max_nodes: int) -> list[Hashable]:
        """Group the tasks of a level, or of several; dead and held ones stay apart if they can."""
        levels = max(self._levels, default=0) + 1
        if levels > max_nodes:
            return [level * max_nodes // levels for level in self._levels]
        finer = self.by_kind_and_level()
        room = max_nodes - levels
        trouble = dict.fromkeys(
            group
            for group, state in zip(finer, self._states, strict=True)
            if state in ("dead", HELD)
        )
        kept = set(list(trouble)[:room])
        return [
            group if group in kept else level
            for group, level in zip(finer, self._levels, strict=True)
        ]

    # -------------------------------------------------------------------------------- the picture

    def picture(self, title: str, groups: Sequence[Hashable]) -> Picture:
        """Return a picture with a node for each group."""
        numbers: dict[Hashable, int] = {}
        nodes: list[Node] = []
        for task, group in enumerate(groups):
            number = numbers.setdefault(group, len(numbers))
            if number == len(nodes):
                nodes.append(Node())
            node, state = nodes[number], self._states[task]
            node.kinds[self._kinds[task]] += 1
            node.states[state] += 1
            node.ids.append(self.ids[task])
            if state == "dead":
                node.dead_ids.append(self.ids[task])
            node.is_focus = node.is_focus or task == self._focus
            node.is_outside = node.is_outside or self.ids[task] in self._outside
        links: Counter[tuple[int, int, str]] = Counter()
        for parent, children in enumerate(self._children):
            first = numbers[groups[parent]]
            for child, policy in children:
                second = numbers[groups[child]]
                if first == second:
                    nodes[first].in_sequence = True
                else:
                    links[first, second, policy] += 1
        for node in nodes:
            node.ids.sort()
            node.dead_ids.sort()
        return Picture(title, nodes, [Link(*ends, count) for ends, count in links.items()])


def _topological(ids: list[int], edges: list[Edge]) -> list[int]:
    """Return the ids in an order in which parents come before their children."""
    waits: Counter[int] = Counter(edge.child for edge in edges)
    children: defaultdict[int, list[int]] = defaultdict(list)
    for edge in edges:
        children[edge.parent].append(edge.child)
    order = [task for task in ids if not waits[task]]
    for task in order:  # it grows
        for child in children[task]:
            waits[child] -= 1
            if not waits[child]:
                order.append(child)
    return order


def _without_cycles(found: Tasks) -> list[Edge]:
    """Return the edges without those of a cycle. Peers refuses cycles, so there should be none."""
    ordered = _topological([task.id for task in found.tasks], found.edges)
    if len(ordered) == len(found.tasks):
        return found.edges
    sound = set(ordered)
    return [edge for edge in found.edges if edge.parent in sound and edge.child in sound]
