"""The table of each workload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.figures import Figures
from benchmarks.goals import GOALS, Verdict
from benchmarks.report.markdown import NOTHING, number, percent, rate, spread, table
from benchmarks.systems.registry import SYSTEMS

Notes = dict[str, str]


def goals(figures: Figures, notes: Notes) -> str:
    """Show each goal, what was measured, and why a goal was missed."""
    rows = []
    for goal in GOALS:
        figure = goal.measure(figures)
        verdict = goal.verdict(figure)
        words = f"**{verdict.value}**" if verdict is Verdict.MISSED else verdict.value
        if verdict is Verdict.MISSED and goal.key in notes:
            words += f": {notes[goal.key]}"
        rows.append([goal.title, goal.target(), goal.text(figure), words])
    return table(["goal", "bound", "measured", "result"], rows)


def drain(figures: Figures) -> str:
    """Show rates and CPU times."""
    rows = [
        [
            name,
            _or_error(figures, "drain", name, rate(figures.median("drain", "rate", system=name))),
            spread(figures.values("drain", "rate", system=name)),
            number(figures.median("drain", "postgres_us", system=name), 1),
            number(figures.median("drain", "client_us", system=name), 1),
            number(figures.median("drain", "tasks", system=name)),
            number(sum(figures.values("drain", "ran_again", system=name))),
        ]
        for name in _measured(figures, "drain")
    ]
    header = ["system", "tasks/s", "all rounds", "Postgres, µs a task", "clients, µs a task",
              "tasks a round", "ran twice"]  # fmt: skip
    return table(header, rows)


def submit(figures: Figures) -> str:
    """Show rates of submission."""
    rows = [
        [
            name,
            _or_error(figures, "submit", name,
                      rate(figures.median("submit", "single_rate", system=name))),
            rate(figures.median("submit", "bulk_rate", system=name)),
        ]
        for name in _measured(figures, "submit")
    ]  # fmt: skip
    return table(["system", "one by one, tasks/s", "in bulk, tasks/s"], rows)


def pickup(figures: Figures) -> str:
    """Show delays in milliseconds."""
    loaded = "pickup under load"
    rows = [
        [
            name,
            _or_error(figures, "pickup", name,
                      number(figures.median("pickup", "p50_ms", system=name), 2)),
            number(figures.median("pickup", "p99_ms", system=name), 2),
            rate(figures.median(loaded, "load", system=name)),
            number(figures.median(loaded, "p50_ms", system=name), 1),
            number(figures.median(loaded, "p99_ms", system=name), 1),
        ]
        for name in _measured(figures, "pickup")
    ]  # fmt: skip
    header = ["system", "idle, p50 ms", "idle, p99 ms", "half load, tasks/s", "p50 ms", "p99 ms"]
    return table(header, rows)


def graphs(figures: Figures) -> str:
    """Show rates for each shape."""
    shapes = {"chains": "chains of 10", "fan": "1 → 1,000 → 1",
              "layers": "layers of 1,000, 3 parents each",
              "random": "random, 3 parents each"}  # fmt: skip
    rows = []
    for workload in ("graphs", "large graph"):
        for shape, words in shapes.items():
            for name in _measured(figures, workload):
                where = {"system": name, "shape": shape}
                if figures.rows(workload, **where):
                    rows.append([
                        words,
                        name,
                        number(figures.median(workload, "tasks", **where)),
                        number(figures.median(workload, "edges", **where)),
                        rate(figures.median(workload, "submit_rate", **where)),
                        rate(figures.median(workload, "rate", **where)),
                    ])  # fmt: skip
    header = ["shape", "system", "tasks", "edges", "submitted, tasks/s", "run, tasks/s"]
    return table(header, rows)


def snapshot(figures: Figures) -> str:
    """Show how the rate changes while an old snapshot is held."""
    rows = []
    for name in _measured(figures, "snapshot"):
        rates = figures.rows("snapshot", system=name)[-1].get("rates", [])
        first, last = (rates[0], rates[-1]) if rates else (None, None)
        change = figures.median("snapshot", "last_to_first", system=name)
        words = _or_error(figures, "snapshot", name, rate(first))
        rows.append([name, words, rate(last), number(change, 2)])
    return table(["system", "first sixth, tasks/s", "last sixth, tasks/s", "last / first"], rows)


def long_life(figures: Figures) -> str:
    """Show the first and the last tenth, and the largest tables."""
    rows = []
    for row in figures.rows("long life"):
        if "rates" in row:
            largest = sorted(row["mib"].items(), key=lambda item: -item[1])
            rows.append([
                f"{row['tasks']:,}", row["retention"] or "for ever", rate(row["rates"][0]),
                rate(row["rates"][-1]), number(row["last_to_first"], 2),
                ", ".join(f"{name} {mib:,.0f}" for name, mib in largest[:4]),
            ])  # fmt: skip
    header = ["tasks", "kept", "first tenth, tasks/s", "last tenth, tasks/s", "last / first",
              "tables at the end, MiB"]  # fmt: skip
    return table(header, rows)


def backlog(figures: Figures) -> str:
    """Show how long a claim takes."""
    rows = [
        [row["case"], number(row["claims"]), number(row["p50_ms"], 2), number(row["p99_ms"], 2)]
        for row in figures.rows("backlog")
        if "case" in row
    ]
    return table(["tasks in the database", "claims", "p50, ms", "p99, ms"], rows)


def many_peers(figures: Figures) -> str:
    """Show rates by number of peers."""
    counts = sorted({row["peers"] for row in figures.rows("many peers") if "peers" in row})
    rows = [
        [
            str(peers),
            rate(figures.median("many peers", "rate", peers=peers, running=False)),
            rate(figures.median("many peers", "rate", peers=peers, running=True)),
            number(figures.median("many peers", "postgres_us", peers=peers, running=True), 1),
            number(figures.median("many peers", "client_us", peers=peers, running=True), 1),
        ]
        for peers in counts
    ]
    header = ["peers", "they start with the clock, tasks/s", "they have started, tasks/s",
              "Postgres, µs a task", "peers, µs a task"]  # fmt: skip
    return table(header, rows)


def idle(figures: Figures) -> str:
    """Show what an idle worker costs."""
    rows = [
        [
            name,
            _or_error(figures, "idle", name,
                      number(figures.median("idle", "connections", system=name))),
            number(figures.median("idle", "statements_per_second", system=name), 1),
            number(figures.median("idle", "client_ms_per_second", system=name), 1),
        ]
        for name in _measured(figures, "idle")
    ]  # fmt: skip
    return table(["system", "connections", "statements/s", "CPU of the client, ms/s"], rows)


def overhead(figures: Figures) -> str:
    """Show how near the slots come to the ideal."""
    rows = [
        [
            f"{row['slots']} {'sync' if row['sync'] else 'async'}",
            f"{row['milliseconds']:g} ms",
            number(row["tasks"]),
            percent(row["efficiency"]),
            percent(row["bare"]),
        ]
        for row in figures.rows("overhead")
        if "slots" in row
    ]
    header = [
        "at once",
        "each waits",
        "tasks",
        "share of the ideal",
        "the same waits without tasks",
    ]
    return table(header, rows)


def takeover(figures: Figures) -> str:
    """Show how long a dead peer's task waits."""
    cases = dict.fromkeys(row["case"] for row in figures.rows("takeover") if "case" in row)
    rows = [
        [
            case,
            str(len(figures.values("takeover", "seconds", case=case))),
            number(figures.median("takeover", "seconds", case=case), 2),
            number(max(figures.values("takeover", "seconds", case=case)), 2),
        ]
        for case in cases
    ]
    return table(["the task is taken over by", "kills", "median, s", "slowest, s"], rows)


TABLES: Final[dict[str, Callable[[Figures], str]]] = {
    "drain": drain,
    "submit": submit,
    "pickup": pickup,
    "graphs": graphs,
    "snapshot": snapshot,
    "long life": long_life,
    "backlog": backlog,
    "many peers": many_peers,
    "idle": idle,
    "overhead": overhead,
    "takeover": takeover,
}


def _measured(figures: Figures, workload: str) -> list[str]:
    """Return the systems that have rows, in their usual order."""
    return [name for name in SYSTEMS if figures.rows(workload, system=name)]


def _or_error(figures: Figures, workload: str, name: str, words: str) -> str:
    """Say that a system failed instead of leaving its cell empty."""
    failed = words == NOTHING and figures.error(workload, system=name)
    return f"failed: {failed}" if failed else words
