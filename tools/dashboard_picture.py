"""Draw the panels of the Grafana dashboard from the data of a real Prometheus.

    python -m tools.dashboard_picture [--seconds 240] [--picture docs/metrics/dashboard.png]

It runs two peers with changing work on a private Postgres, lets Prometheus scrape them, and sends
the queries of deploy/grafana/peers-dashboard.json.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec

from peers.database import schema
from peers.database.connection import connect
from peers.embedded import throwaway
from tests.e2e.harness import Stage
from tests.support.prometheus import Prometheus, expressions, panels

_COLUMNS: Final = 24
_STEP: Final = 2.0
_MOST_LINES: Final = 8
_WARM_UP: Final = 20.0
"""Seconds that are not drawn."""
_SETUP: Final = (
    "insert into peers.limit (name, kind, max_running) values ('thumbs', 'thumbs.make', 3)",
    "insert into peers.schedule (name, cron, kind) values ('nightly', '@daily', 'mail.send')",
    "insert into peers.task (kind) values ('nobody.runs.it')",
)


def main() -> None:
    """Run the peers, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--picture", type=Path, default=Path("docs/metrics/dashboard.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, throwaway() as postgres:
        folder, url = Path(name), postgres.url("postgres")
        with connect(url, application_name="picture") as connection:
            schema.migrate(connection)
        with Stage(url, folder) as stage:
            for _ in range(2):
                stage.peer(
                    "tests.e2e.app_metrics", "default=3,media=3", metrics_listen="127.0.0.1:0"
                )
            targets = [peer.await_event("metrics_served")["address"] for peer in stage.peers]
            with Prometheus(folder, targets) as prometheus:
                began = time.monotonic()
                _work(stage, options.seconds)
                _draw(prometheus, time.monotonic() - began - _WARM_UP, options.picture)


def _work(stage: Stage, seconds: float) -> None:
    """Submit work in waves, with a burst now and then and some dead letters."""
    for statement in _SETUP:
        stage.db.execute(statement)
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        wave = 1 + np.sin(elapsed / 20)
        burst = 250 if random.random() < 1 / 60 else 0
        stage.db.execute(
            "insert into peers.task (kind, queue) select 'thumbs.make', 'media'"
            " from generate_series(1, %s)",
            [round(20 * wave) + burst],
        )
        stage.db.execute(
            "insert into peers.task (kind) select 'mail.send' from generate_series(1, %s)",
            [round(12 * wave) + 4],
        )
        if random.random() < 1 / 30:
            parent = stage.submit("report.render", max_attempts=1)
            stage.db.execute(
                "select peers.submit('mail.send', depends_on => array[%s]::bigint[])", [parent]
            )
        time.sleep(1)


def _draw(prometheus: Prometheus, seconds: float, picture: Path) -> None:
    shown = panels()
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    figure = plt.figure(figsize=(18, height * 0.36), dpi=80, layout="constrained")
    grid = GridSpec(height, _COLUMNS, figure=figure)
    end = _now(prometheus)
    for panel in shown:
        place = panel["gridPos"]
        axes = figure.add_subplot(
            grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]]
        )
        axes.set_title(panel["title"], fontsize=10, loc="left")
        series = _read(prometheus, panel, end - seconds, end)
        match panel["type"]:
            case "stat":
                _stat(axes, panel, series)
            case "heatmap":
                _heatmap(axes, series)
            case _:
                _lines(axes, panel, series)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def _now(prometheus: Prometheus) -> float:
    return float(prometheus.get("query", query="time()")["result"][1])


def _read(
    prometheus: Prometheus, panel: dict[str, Any], start: float, end: float
) -> list[tuple[str, dict[str, str], Any, Any]]:
    """Return the legend, the labels, the times and the values of each series."""
    found = []
    for target, expression in zip(panel["targets"], expressions(panel, "15s"), strict=True):
        data = prometheus.get("query_range", query=expression, start=start, end=end, step=_STEP)
        for each in data["result"]:
            legend = target["legendFormat"]
            for label, value in each["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            times, values = np.array(each["values"], dtype=float).T
            found.append((legend, each["metric"], times - end, values))
    return found


def _stat(axes: Axes, panel: dict[str, Any], series: list[Any]) -> None:
    axes.axis("off")
    defaults = panel["fieldConfig"]["defaults"]
    value = series[0][3][-1] if series else 0
    suffix = {"reqps": " /s", "s": " s"}.get(defaults["unit"], "")
    color = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    text = f"{value:.1f}" if suffix else f"{value:.0f}"
    axes.text(0.5, 0.4, text + suffix, fontsize=22, color=color, ha="center", va="center")


def _lines(axes: Axes, panel: dict[str, Any], series: list[Any]) -> None:
    series.sort(key=lambda each: -np.nanmax(np.nan_to_num(each[3])))
    for legend, _, times, values in series[:_MOST_LINES]:
        axes.plot(times, values, linewidth=1, label=legend)
    axes.set_ylim(bottom=0)
    unit = {"reqps": "a second", "s": "seconds"}.get(panel["fieldConfig"]["defaults"]["unit"], "")
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6.5, loc="upper left")


def _heatmap(axes: Axes, series: list[Any]) -> None:
    bounds = sorted(series, key=lambda each: float(each[1]["le"]))
    times = bounds[-1][2]
    table = np.array([
        np.interp(times, each[2], np.nan_to_num(each[3])) for each in bounds
    ])  # fmt: skip
    counts = np.maximum(0, np.diff(np.vstack([np.zeros(len(times)), table]), axis=0))
    used = np.flatnonzero(counts.sum(axis=1))
    low, high = max(0, used[0] - 1), min(len(bounds), used[-1] + 2)
    axes.pcolormesh(times, np.arange(low, high), counts[low:high] ** 0.5, cmap="Oranges")
    axes.set_yticks(np.arange(low, high), [f"{each[1]['le']} s" for each in bounds[low:high]])
    axes.tick_params(labelsize=7)


if __name__ == "__main__":
    main()
