"""What a benchmark makes of its measurements: medians, goals, the page."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import statement_log
from benchmarks.__main__ import merged
from benchmarks.bench import Row
from benchmarks.cpu import CpuTime
from benchmarks.figures import Figures, percentile, ratio
from benchmarks.goals import GOALS, Goal, Verdict
from benchmarks.report import page, tables
from benchmarks.report.markdown import table
from benchmarks.starts import Starts
from benchmarks.systems import graph_shapes
from benchmarks.workloads.draining import Drained
from benchmarks.workloads.takeover import ELSEWHERE, SAME_HOST

ROWS: list[Row] = [
    {"workload": "drain", "system": "Peers", "rate": 90.0, "rates": [1, 2]},
    {"workload": "drain", "system": "Peers", "rate": 110.0},
    {"workload": "drain", "system": "Peers", "rate": 100.0},
    {"workload": "drain", "system": "graphile-worker", "rate": 40.0},
    {"workload": "drain", "system": "pg-boss", "error": "TimeoutError: not finished"},
]


def _goal(key: str) -> Goal:
    return next(goal for goal in GOALS if goal.key == key)


def test_a_median_counts_only_rows_that_have_the_figure() -> None:
    """A system that failed has none, and one that is missing neither."""
    figures = Figures(ROWS)
    assert figures.median("drain", "rate", system="Peers") == 100.0
    assert figures.spread("drain", "rate", system="Peers") == (90.0, 110.0)
    assert figures.median("drain", "rate", system="pg-boss") is None
    assert figures.median("drain", "rate", system="PgQueuer") is None
    assert figures.error("drain", system="pg-boss") == "TimeoutError: not finished"


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 5), (90, 9), (91, 10), (99, 10), (100, 10), (0, 1)]
)
def test_a_percentile_is_a_measured_value(percent: float, expected: float) -> None:
    """It is the smallest value that so many per cent do not exceed."""
    assert percentile(range(10, 0, -1), percent) == expected


def test_a_ratio_needs_both_figures() -> None:
    """What was not measured is not guessed."""
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(3.0, None) is None


def test_goals_are_judged_within_one_run() -> None:
    """The drain is compared with graphile-worker's of the same run."""
    goal = _goal("drain")
    assert goal.measure(Figures(ROWS)) == 2.5
    assert goal.verdict(2.5) is Verdict.MET
    assert goal.verdict(1.99) is Verdict.MISSED
    assert goal.verdict(goal.measure(Figures(ROWS[:3]))) is Verdict.NOT_MEASURED


@pytest.mark.parametrize(
    ("key", "figure", "verdict"),
    [
        ("pickup_p99", 3.0, Verdict.MET),
        ("pickup_p99", 3.01, Verdict.MISSED),
        ("idle_statements", 0.99, Verdict.MET),
        ("idle_statements", 1.0, Verdict.MISSED),
        ("snapshot", 0.9, Verdict.MET),
        ("snapshot", 0.89, Verdict.MISSED),
    ],
)
def test_bounds_are_where_they_say(key: str, figure: float, verdict: Verdict) -> None:
    """At least, at most, and less than are three different things."""
    assert _goal(key).verdict(figure) is verdict


def test_takeover_counts_the_slowest_run() -> None:
    """One of ten that takes longer misses the goal."""
    rows: list[Row] = [
        {"workload": "takeover", "system": "Peers", "case": case, "seconds": seconds,
         "lease_seconds": 5.0}
        for case, seconds in (
            (SAME_HOST, 0.5), (SAME_HOST, 2.5), (ELSEWHERE, 6.0), (ELSEWHERE, 6.5)
        )
    ]  # fmt: skip
    assert _goal("takeover").measure(Figures(rows)) == 2.5
    assert _goal("takeover_lease").measure(Figures(rows)) == 1.5


def test_the_best_number_of_peers_is_the_measure() -> None:
    """With the start-up of the peers counted in."""
    rows: list[Row] = [
        {"workload": "many peers", "system": "Peers", "peers": peers, "running": running,
         "rate": rate}
        for peers, running, rate in ((2, False, 100.0), (8, False, 90.0), (8, True, 500.0))
    ]  # fmt: skip
    assert _goal("peers_8").measure(Figures(rows)) == 0.9
    assert _goal("peers_16").measure(Figures(rows)) is None


def test_a_missed_goal_shows_its_note_and_a_met_one_does_not() -> None:
    """A sentence by hand stays until the goal is met."""
    notes = {"drain": "the profile blames X"}
    assert "the profile blames X" not in tables.goals(Figures(ROWS), notes)
    slower = [{**ROWS[0], "rate": 41.0}, ROWS[3]]
    assert "**missed**: the profile blames X" in tables.goals(Figures(slower), notes)


def test_a_failed_system_is_listed_with_its_reason() -> None:
    """It is neither left out nor given a figure."""
    rows = [
        {**row, "tasks": 1, "postgres_us": 1.0, "client_us": 1.0, "ran_again": 0}
        if "rate" in row
        else row
        for row in ROWS
    ]
    assert "| pg-boss | failed: TimeoutError: not finished |" in tables.drain(Figures(rows))


def test_an_error_message_stays_in_its_cell() -> None:
    """It may have several lines and bars."""
    assert table(["a", "b"], [["x", "two\nlines | a bar"]]).splitlines()[2:] == [
        "| x | two lines / a bar |"
    ]


def test_only_measured_parts_of_a_page_change() -> None:
    """What people wrote between them stays as it is."""
    text = "# A\n\nby hand\n\n<!-- measured: one -->\nold\n<!-- end -->\n\nmore by hand\n"
    written = page.fill(text, {"one": r"new \1"})
    assert written == text.replace("old", r"new \1")
    assert page.fill(written, {"one": r"new \1"}) == written


def test_a_page_without_a_place_for_a_part_is_an_error() -> None:
    """Figures are not dropped in silence."""
    with pytest.raises(ValueError, match="two"):
        page.fill("<!-- measured: one -->\n<!-- end -->", {"one": "", "two": ""})


def test_the_page_has_a_place_for_every_table() -> None:
    """And each is filled from a run that measured nothing."""
    parts = dict.fromkeys(["run", "goals", *tables.TABLES], "x")
    assert page.fill(page.TEMPLATE.read_text(), parts).count("\nx\n<!-- end -->") == len(parts)


def test_a_workload_can_be_measured_again() -> None:
    """Its new rows replace all its old ones, and the page says so."""
    earlier = {"mode": "default", "rows": ROWS, "seconds": {"drain": 9.0, "idle": 1.0}}
    rows = [{"workload": "drain", "system": "Peers", "rate": 7.0}]
    later = {"mode": "default", "rows": rows, "seconds": {"drain": 8.0}, "began": "now"}
    result = merged(earlier, later)
    assert result["rows"] == rows
    assert result["seconds"] == {"drain": 8.0, "idle": 1.0}
    assert result["again"] == {"drain": "now"}


def test_statements_are_counted_once_with_all_their_time() -> None:
    """Parse and bind belong to the execution that follows in the same session."""
    text = (
        "7|a|LOG:  duration: 0.500 ms  bind x: select 1\n"
        "8|b|LOG:  duration: 9.000 ms  statement: commit\n"
        "7|a|LOG:  duration: 1.500 ms  execute x: select *\n\tfrom peers.claim($1)\n"
        "7|a|ERROR:  no\n"
    )
    assert statement_log.parse(text) == [
        statement_log.Statement("b", "commit", 9.0),
        statement_log.Statement("a", "select * from peers.claim($1)", 2.0),
    ]


def test_rates_run_from_the_first_start_to_the_end() -> None:
    """Parts begin when all workers are at work, and each has as many tasks."""
    second = 1_000_000_000
    starts = np.array([0, *(second + second * n // 10 for n in range(21))], np.int64)
    drained = Drained(
        tasks=22, starts=starts, all_at_work=second, ended=11 * second,
        cpu=CpuTime(22_000, 44_000), cpu_tasks=22,
    )  # fmt: skip
    assert drained.rate == 2.0
    assert drained.part_rates(2) == pytest.approx([10.0, 10.0])
    assert drained.figures()["postgres_us"] == 1.0
    assert drained.figures()["client_us"] == 2.0


def test_records_of_all_processes_are_read(tmp_path: Path) -> None:
    """The first start of a task counts, and half a record does not."""
    starts = Starts(tmp_path / "run")
    record = struct.Struct("<qq")
    (starts.folder / "1.bin").write_bytes(record.pack(5, 30) + record.pack(6, 10))
    (starts.folder / "2.bin").write_bytes(record.pack(5, 20) + record.pack(7, 40)[:9])
    assert starts.processes() == 2
    assert starts.times().tolist() == [10, 20, 30]
    assert starts.first_times() == {5: 20, 6: 10}
    assert starts.last_process_started_at() == 30


@pytest.mark.parametrize(
    ("shape", "size", "tasks"),
    [("chains", 305, 300), ("fan", 1000, 1002), ("layers", 2500, 2000), ("random", 17, 17)],
)
def test_shapes_have_about_the_size_that_was_asked_for(shape: str, size: int, tasks: int) -> None:
    """Whole chains and whole layers only."""
    assert graph_shapes.task_count(shape, size) == tasks
