"""Graphs to draw: hostile names, wide ones, random ones."""

from __future__ import annotations

import functools
import random

from peers.pictures.fold import MAX_NODES, fold
from peers.pictures.picture import Picture
from peers.pictures.read import Edge, Task, Tasks

HOSTILE = [
    'a"b]c', "x[y]{z}(w)|v", "line\nbreak\ttab", "<script>alert(1)</script>&amp;",
    "\u65e5\u672c\u8a9e" * 60, "emoji \U0001f389 e\u0301", '%%{init: {"theme":"dark"}}%%',
    "1. list", "- item", "_em_ *b* `code` ~~x~~", "#quot; #35;", "end", "\\N \\G \\", "k" * 200,
    "O'Brien; drop -->", "\u202eright to left", "$$x^2$$", "subgraph", "a&#34;b", "\x1b[31mred",
    "\x00\x01]]>", "\udcff", "\ufffe", "n1 --> n2", "click n1 callback",
]  # fmt: skip
STATES = ["completed", "dead", "running", "blocked", "ready", "scheduled", "cancelled"]
POLICIES = ["hold", "cancel", "run"]


def hostile() -> Picture:
    """A task for each of the kinds, in a chain."""
    count = len(HOSTILE)
    tasks = [Task(n + 1, kind, STATES[n % len(STATES)]) for n, kind in enumerate(HOSTILE)]
    edges = [Edge(n, n + 1, POLICIES[n % len(POLICIES)]) for n in range(1, count)]
    return fold(Tasks(tasks, edges), 'graph 1, a "name"\n<b>', None)


def scattered(seed: int, tasks: int = 300) -> Tasks:
    """A random graph."""
    dice = random.Random(seed)
    made = [Task(n, f"kind{dice.randrange(5)}", dice.choice(STATES)) for n in range(1, tasks + 1)]
    edges = {
        (dice.randrange(max(1, n - 30), n), n): dice.choice(POLICIES)
        for n in range(2, tasks + 1)
        for _ in range(dice.choice([0, 1, 1, 2, 3]))
    }
    return Tasks(made, sorted(Edge(*ends, policy) for ends, policy in edges.items()))


def fan(width: int = 10_000, dead: int = 2, running: int = 48) -> Tasks:
    """One task, many alike children, each with a child of its own, and one that joins them."""
    tasks, edges = [Task(1, "shop.list", "completed")], []
    join = 3 * width
    for n in range(2, width + 2):
        left = n - 2
        state = "dead" if left < dead else "running" if left < dead + running else "completed"
        tasks += [
            Task(n, "thumbs.make", state),
            Task(n + width, "thumbs.upload", "completed" if state == "completed" else "blocked"),
        ]
        edges += [Edge(1, n, "hold"), Edge(n, n + width, "hold"), Edge(n + width, join, "hold")]
    return Tasks([*tasks, Task(join, "shop.report", "blocked")], edges)


@functools.cache
def pictures() -> list[Picture]:
    """Hostile ones, folded ones, an empty one."""
    return [
        hostile(),
        fold(fan(), "graph 42, thumbs", MAX_NODES),
        *(fold(scattered(seed), "g", MAX_NODES) for seed in range(3)),
        fold(Tasks([], []), "graph 1, empty", MAX_NODES),
    ]
