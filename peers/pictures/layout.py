"""Place boxes in layers from left to right, with few crossings: Sugiyama's method.

A box is in the layer after its last parent. Edges that skip a layer bend there. The order in a
layer follows the mean place of the neighbours, and so do the positions.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Final, NamedTuple

_SWEEPS: Final = 24
_ALIGNMENTS: Final = 8
_LAYER_GAP: Final = 70.0
_BOX_GAP: Final = 18.0
_BEND_GAP: Final = 10.0


class Size(NamedTuple):
    """The width and height of a box."""

    width: float
    height: float


class Point(NamedTuple):
    """A place in the drawing; y grows downwards."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Layout:
    """The left upper corner of each box, the points of each edge, and the size of all."""

    corners: list[Point]
    routes: list[list[Point]]
    size: Size


def lay_out(sizes: Sequence[Size], edges: Sequence[tuple[int, int]]) -> Layout:
    """Return where to draw boxes and the edges between them, which have no cycles."""
    return _Layers(sizes, edges).layout()


class _Layers:
    """Boxes, and after them the bends, by their numbers."""

    def __init__(self, sizes: Sequence[Size], edges: Sequence[tuple[int, int]]) -> None:
        self._boxes = len(sizes)
        self._sizes = list(sizes)
        self._before: defaultdict[int, list[int]] = defaultdict(list)
        self._after: defaultdict[int, list[int]] = defaultdict(list)
        layer_of = _layers_of(len(sizes), edges)
        self._paths = [self._path(ends, layer_of) for ends in edges]
        self._layers: list[list[int]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
        for number, layer in enumerate(layer_of):
            self._layers[layer].append(number)

    def _path(self, ends: tuple[int, int], layer_of: list[int]) -> list[int]:
        """Return an edge as the numbers that it leads through, with new bends."""
        parent, child = ends
        path = [parent]
        for layer in range(layer_of[parent] + 1, layer_of[child]):
            path.append(len(layer_of))
            layer_of.append(layer)
            self._sizes.append(Size(0.0, 0.0))
        path.append(child)
        for first, second in pairwise(path):
            self._after[first].append(second)
            self._before[second].append(first)
        return path

    def layout(self) -> Layout:
        """Order the layers, and place everything."""
        self._order()
        centres = self._align()
        lefts: list[float] = []
        widths = [max(self._sizes[number].width for number in layer) for layer in self._layers]
        width = 0.0
        for wide in widths:
            lefts.append(width)
            width += wide + _LAYER_GAP
        places: dict[int, Point] = {}
        top = min(
            (centres[number] - size.height / 2 for number, size in enumerate(self._sizes)),
            default=0.0,
        )
        for left, layer in zip(lefts, self._layers, strict=True):
            for number in layer:
                places[number] = Point(left, centres[number] - top)
        corners = [
            Point(places[box].x, places[box].y - self._sizes[box].height / 2)
            for box in range(self._boxes)
        ]
        height = max(
            (place.y + self._sizes[number].height / 2 for number, place in places.items()),
            default=0.0,
        )
        width_at = dict(zip(lefts, widths, strict=True))
        routes = [self._route(path, places, width_at) for path in self._paths]
        return Layout(corners, routes, Size(max(0.0, width - _LAYER_GAP), height))

    def _route(
        self, path: list[int], places: dict[int, Point], width_at: dict[float, float]
    ) -> list[Point]:
        """Return the points of an edge: it crosses the layers of its bends on a level line."""
        first, last = path[0], path[-1]
        points = [Point(places[first].x + self._sizes[first].width, places[first].y)]
        for bend in path[1:-1]:
            at = places[bend]
            points += [at, Point(at.x + width_at[at.x], at.y)]
        return [*points, places[last]]

    # ------------------------------------------------------------------------- order and positions

    def _order(self) -> None:
        """Sort each layer by the mean place of the neighbours; keep what crosses least."""
        best, least = [list(layer) for layer in self._layers], self._crossings()
        place = {number: at for layer in self._layers for at, number in enumerate(layer)}
        for sweep in range(_SWEEPS):
            if not least:
                break
            forwards = sweep % 2 == 0
            neighbours = self._before if forwards else self._after
            for layer in self._layers if forwards else reversed(self._layers):
                means = {n: _mean([place[m] for m in neighbours[n]], place[n]) for n in layer}
                layer.sort(key=means.__getitem__)
                place.update((number, at) for at, number in enumerate(layer))
            crossings = self._crossings()
            if crossings < least:
                best, least = [list(layer) for layer in self._layers], crossings
        self._layers = best

    def _crossings(self) -> int:
        """Return how many pairs of edges between neighbouring layers cross."""
        total = 0
        for layer, following in zip(self._layers, self._layers[1:], strict=False):
            place = {number: at for at, number in enumerate(following)}
            ends = [end for n in layer for end in sorted(place[m] for m in self._after[n])]
            seen: list[int] = []
            for end in ends:
                total += len(seen) - bisect_right(seen, end)
                insort(seen, end)
        return total

    def _align(self) -> list[float]:
        """Return the middle of everything: near the neighbours, without overlaps."""
        centres = [0.0] * len(self._sizes)
        for layer in self._layers:
            for number, at in zip(layer, self._spread([0.0] * len(layer), layer), strict=True):
                centres[number] = at
        for turn in range(_ALIGNMENTS):
            forwards = turn % 2 == 0
            neighbours = self._before if forwards else self._after
            for layer in self._layers if forwards else reversed(self._layers):
                wanted = [_mean([centres[m] for m in neighbours[n]], centres[n]) for n in layer]
                for number, at in zip(layer, self._spread(wanted, layer), strict=True):
                    centres[number] = at
        return centres

    def _spread(self, wanted: list[float], layer: list[int]) -> list[float]:
        """Return the places nearest to the wanted ones at which nothing overlaps.

        Neighbours that would overlap form a block, which stands at the mean of what they want.
        """
        offsets, offset = [], 0.0
        for at, number in enumerate(layer):
            if at:
                before = layer[at - 1]
                is_bend = number >= self._boxes or before >= self._boxes
                gap = _BEND_GAP if is_bend else _BOX_GAP
                offset += (self._sizes[before].height + self._sizes[number].height) / 2 + gap
            offsets.append(offset)
        blocks: list[tuple[float, int]] = []  # the sum of what its members want, and their number
        for want, shift in zip(wanted, offsets, strict=True):
            total, members = want - shift, 1
            while blocks and blocks[-1][0] / blocks[-1][1] >= total / members:
                more, others = blocks.pop()
                total, members = total + more, members + others
            blocks.append((total, members))
        starts = [total / members for total, members in blocks for _ in range(members)]
        return [start + shift for start, shift in zip(starts, offsets, strict=True)]


def _layers_of(boxes: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return the layer of each box: after its last parent; without parents, before its child."""
    parents: list[list[int]] = [[] for _ in range(boxes)]
    children: list[list[int]] = [[] for _ in range(boxes)]
    for parent, child in edges:
        parents[child].append(parent)
        children[parent].append(child)
    layers = [0] * boxes
    for box in TopologicalSorter(dict(enumerate(parents))).static_order():
        layers[box] = max((layers[parent] + 1 for parent in parents[box]), default=0)
    for box in range(boxes):
        if children[box] and not parents[box]:
            layers[box] = min(layers[child] for child in children[box]) - 1
    return layers


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
