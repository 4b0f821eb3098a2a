"""The shapes of graphs, as SQL that returns the edges (parent, child) between numbers of tasks."""

from __future__ import annotations

from typing import Final

CHAIN: Final = 10
LAYER: Final = 1000
PARENTS: Final = 3
SHAPES: Final = ("chains", "fan", "layers", "random")


def task_count(shape: str, size: int) -> int:
    """Return how many tasks a graph of this shape has: about `size`."""
    match shape:
        case "chains":
            return size - size % CHAIN
        case "fan":
            return size + 2
        case "layers":
            return size - size % LAYER
        case "random":
            return size
        case _:
            raise ValueError(f"unknown shape: {shape}")


def edges_sql(shape: str, size: int) -> tuple[int, str]:
    """Return the number of tasks, and a query for the edges."""
    tasks = task_count(shape, size)
    last = tasks - 1
    match shape:
        case "chains":
            query = f"""
                select n - 1 as parent, n as child from generate_series(1, {last}) n
                where n % {CHAIN} <> 0"""
        case "fan":
            query = f"""
                select 0 as parent, n as child from generate_series(1, {last - 1}) n
                union all
                select n, {last} from generate_series(1, {last - 1}) n"""
        case "layers":  # each task has three parents, side by side in the layer above
            query = f"""
                select n - n % {LAYER} - {LAYER} + (n + k) % {LAYER} as parent, n as child
                from generate_series({LAYER}, {last}) n, generate_series(0, {PARENTS - 1}) k"""
        case _:  # each task has up to three parents among all earlier ones
            query = f"""
                select distinct abs(hashint4((n * {PARENTS} + k)::integer)::bigint) % n as parent,
                       n as child
                from generate_series(1, {last}) n, generate_series(1, {PARENTS}) k"""
    return tasks, query
