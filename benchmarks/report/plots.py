"""Draw the plots of the page as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.figures import Figures
from benchmarks.systems.registry import SYSTEMS

OURS: Final = "#1f6feb"
OTHERS: Final = ("#8c6d31", "#2a7f62", "#a23b72", "#6b7280")
COLOURS: Final = dict(zip(SYSTEMS, (OURS, *OTHERS), strict=True))
_LIGHT: Final = 0.45
_SIZE: Final = (7.2, 3.2)
_STYLE: Final[dict[str, Any]] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#e5e7eb", "font.size": 9.0, "figure.dpi": 100,
    "svg.fonttype": "none", "svg.hashsalt": "peers",
    "font.family": "sans-serif", "legend.frameon": False,
}  # fmt: skip


def draw_all(figures: Figures, folder: Path) -> list[str]:
    """Draw what was measured, and return the names of the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # it knows the keys by literal types
        for name, draw in PLOTS.items():
            figure = Figure(figsize=_SIZE, layout="constrained")
            if draw(figures, figure):
                # without a date, the same figures give the same file
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
                drawn.append(name)
    return drawn


def drain(figures: Figures, figure: Figure) -> bool:
    """Draw the rates beside the CPU times."""
    names = _names(figures, "drain", "rate")
    rates, times = figure.subplots(1, 2)
    _bars(rates, names, [_median(figures, "drain", "rate", name) for name in names])
    _error_bars(rates, figures, names)
    _thousands(rates)
    rates.set_title("tasks/s (lines: all rounds)")
    fast = [name for name in names if _median(figures, "drain", "postgres_us", name) < _SLOW]
    postgres = [_median(figures, "drain", "postgres_us", name) for name in fast]
    clients = [_median(figures, "drain", "client_us", name) for name in fast]
    places = range(len(fast))
    colours = [COLOURS[name] for name in fast]
    times.bar(places, postgres, color=colours)
    times.bar(places, clients, bottom=postgres, color=colours, alpha=_LIGHT)
    times.set_xticks(places, fast, rotation=20, ha="right")
    times.grid(visible=False, axis="x")
    times.set_title("µs a task: Postgres (dark), clients (light)")
    return bool(names)


def _error_bars(axes: Axes, figures: Figures, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        values = figures.values("drain", "rate", system=name)
        axes.vlines(place, min(values), max(values), color="black", linewidth=1)


def submit(figures: Figures, figure: Figure) -> bool:
    """Draw the rates of submission."""
    names = _names(figures, "submit", "bulk_rate")
    single, bulk = figure.subplots(1, 2)
    for axes, field, title in (
        (single, "single_rate", "one by one"), (bulk, "bulk_rate", "in bulk")
    ):  # fmt: skip
        _bars(axes, names, [_median(figures, "submit", field, name) for name in names])
        axes.set_title(f"{title}, tasks/s")
        _thousands(axes)
    return bool(names)


def pickup(figures: Figures, figure: Figure) -> bool:
    """Draw the delays: p50 dark, p99 light."""
    idle, loaded = figure.subplots(1, 2)
    for axes, workload, title in (
        (idle, "pickup", "idle"), (loaded, "pickup under load", "half load")
    ):  # fmt: skip
        names = _names(figures, workload, "p50_ms")
        slow = [_median(figures, workload, "p99_ms", name) for name in names]
        _bars(axes, names, slow, alpha=_LIGHT)
        _bars(axes, names, [_median(figures, workload, "p50_ms", name) for name in names])
        axes.set_title(f"{title}, ms: p50 (dark), p99 (light)")
        if slow and max(slow) > _SLOW:
            axes.set_yscale("log")
    return bool(_names(figures, "pickup", "p50_ms"))


def graphs(figures: Figures, figure: Figure) -> bool:
    """Draw the rates of each shape."""
    shapes = {"chains": "chains of 10", "fan": "1 → 1,000 → 1", "layers": "layers",
              "random": "random"}  # fmt: skip
    names = _names(figures, "graphs", "rate")
    axes = figure.subplots()
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        heights = [
            figures.median("graphs", "rate", system=name, shape=shape) or 0.0 for shape in shapes
        ]
        places = [place + number * width for place in range(len(shapes))]
        axes.bar(places, heights, width, label=name, color=COLOURS[name])
    axes.set_xticks([place + width * (len(names) - 1) / 2 for place in range(len(shapes))],
                    list(shapes.values()))  # fmt: skip
    axes.set_title("graphs, tasks/s")
    _legend(axes)
    _thousands(axes)
    return bool(names)


def snapshot(figures: Figures, figure: Figure) -> bool:
    """Draw the rate of each sixth while an old snapshot is held."""
    names = _names(figures, "snapshot", "last_to_first")
    axes = figure.subplots()
    for name in names:
        rates = _last_rates(figures, "snapshot", system=name)
        axes.plot(range(1, len(rates) + 1), rates, marker="o", label=name, color=COLOURS[name])
    axes.set_xlabel("sixth of the tasks")
    axes.set_title("an old snapshot is held, tasks/s")
    axes.set_ylim(bottom=0)
    _legend(axes)
    _thousands(axes)
    return bool(names)


def long_life(figures: Figures, figure: Figure) -> bool:
    """Draw the rate of each tenth."""
    rows = [row for row in figures.rows("long life") if "rates" in row]
    axes = figure.subplots()
    for row in rows:
        kept = f"finished tasks kept {row['retention'] or 'for ever'}"
        axes.plot(range(1, len(row["rates"]) + 1), row["rates"], marker="o",
                  label=f"{row['tasks']:,} tasks, {kept}",
                  color=OTHERS[0] if row["retention"] else OURS)  # fmt: skip
    axes.set_xlabel("tenth of the tasks")
    axes.set_title("one long run, tasks/s")
    axes.set_ylim(bottom=0)
    _legend(axes)
    _thousands(axes)
    return bool(rows)


def many_peers(figures: Figures, figure: Figure) -> bool:
    """Draw the rate by number of peers."""
    axes = figure.subplots()
    drawn = False
    for running, label in ((True, "have started"), (False, "start with the clock")):
        rows = [row for row in figures.rows("many peers", running=running) if "rate" in row]
        axes.plot([row["peers"] for row in rows], [row["rate"] for row in rows], marker="o",
                  label=label, color=OURS if running else OTHERS[0])  # fmt: skip
        drawn = drawn or bool(rows)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("peers on one machine")
    axes.set_title("many peers, tasks/s")
    axes.set_ylim(bottom=0)
    _legend(axes)
    _thousands(axes)
    return drawn


def backlog(figures: Figures, figure: Figure) -> bool:
    """Draw how long a claim takes: p50 dark, p99 light."""
    rows = [row for row in figures.rows("backlog") if "case" in row]
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["p99_ms"] for row in rows], color=OURS, alpha=_LIGHT)
    axes.barh(places, [row["p50_ms"] for row in rows], color=OURS)
    axes.set_yticks(places, [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title("a claim, ms: p50 (dark) and p99 (light)")
    return bool(rows)


def overhead(figures: Figures, figure: Figure) -> bool:
    """Draw the share of the ideal beside that of the waits alone."""
    rows = [row for row in figures.rows("overhead") if "slots" in row]
    axes = figure.subplots()
    width = 0.4
    for number, (field, label, colour) in enumerate(
        (("efficiency", "Peers", OURS), ("bare", "the same waits without tasks", OTHERS[3]))
    ):
        places = [place + number * width for place in range(len(rows))]
        axes.bar(places, [row[field] * 100 for row in rows], width, label=label, color=colour)
    labels = [f"{row['slots']} × {row['milliseconds']:g} ms" for row in rows]
    axes.set_xticks([place + width / 2 for place in range(len(rows))], labels)
    axes.set_title("waits at once: share of the ideal, %")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 130)
    axes.legend(loc="upper center", ncols=2)
    return bool(rows)


PLOTS: Final[dict[str, Callable[[Figures, Figure], bool]]] = {
    "drain": drain,
    "submit": submit,
    "pickup": pickup,
    "graphs": graphs,
    "snapshot": snapshot,
    "long-life": long_life,
    "backlog": backlog,
    "many-peers": many_peers,
    "overhead": overhead,
}
_SLOW: Final = 200.0
"""Microseconds a task, or milliseconds of delay: more would hide all others."""


def _names(figures: Figures, workload: str, field: str) -> list[str]:
    return [name for name in SYSTEMS if figures.values(workload, field, system=name)]


def _median(figures: Figures, workload: str, field: str, name: str) -> float:
    return figures.median(workload, field, system=name) or 0.0


def _last_rates(figures: Figures, workload: str, **where: object) -> list[float]:
    rates: list[float] = [row for row in figures.rows(workload, **where) if "rates" in row][-1][
        "rates"
    ]
    return rates


def _bars(axes: Axes, names: Sequence[str], heights: Sequence[float], alpha: float = 1.0) -> None:
    places = range(len(names))
    axes.bar(places, heights, color=[COLOURS[name] for name in names], alpha=alpha)
    axes.set_xticks(places, names, rotation=20, ha="right")
    axes.grid(visible=False, axis="x")


def _thousands(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _legend(axes: Axes) -> None:
    """Explain the colours, if anything was drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
