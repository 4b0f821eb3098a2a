"""The adapter for the long-horizon harness: its contract, its counters, its pace, its verdicts."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.long_horizon import histogram, pacing, page, samples, server, verdict
from benchmarks.long_horizon.adapter import MANIFEST
from benchmarks.long_horizon.cells import CELLS, Cell
from benchmarks.long_horizon.meters import (
    Counts,
    Meter,
    Reader,
    claim_latencies,
    counts,
    end_to_end_latencies,
)
from benchmarks.long_horizon.options import Options

REQUIRED = {
    "claim_p50_ms", "claim_p95_ms", "claim_p99_ms", "enqueue_rate", "completion_rate",
}  # fmt: skip
"""Section 3 of CONTRIBUTING_ADAPTERS.md, without what only the first replica reports."""


def test_a_bucket_has_three_significant_figures() -> None:
    """Each latency is at least its bucket's lower bound, and exceeds it by less than a thousandth;
    longer latencies have later buckets.
    """
    luck = random.Random(1)
    values = sorted([*range(5000), *(int(2 ** luck.uniform(0, 33)) for _ in range(5000))])
    numbers = [histogram.bucket(value) for value in values]
    assert numbers == sorted(numbers)
    for value, number in zip(values, numbers, strict=True):
        low = histogram.lower_bound(number)
        assert low <= value <= low * (1 + 1 / 1000)
    assert histogram.bucket(-5) == 0
    assert histogram.bucket(1 << 60) == histogram.BUCKETS - 1


def test_percentiles_are_those_of_the_values(tmp_path: Path) -> None:
    """Within the width of a bucket; and only of what was counted since the earlier sum."""
    luck = random.Random(2)
    meter = Meter(tmp_path)
    for _ in range(100):
        meter.started(50_000_000)
    before = claim_latencies(tmp_path)
    values = sorted(luck.randrange(100, 900_000) for _ in range(1000))
    for value in values:
        meter.started(value)
    found = histogram.percentiles(claim_latencies(tmp_path) - before, [0.5, 0.95, 0.99])
    exact = [values[499] / 1000, values[949] / 1000, values[989] / 1000]
    assert found == pytest.approx(exact, rel=1e-3)
    assert histogram.percentiles(0, [0.5]) == [0.0]


def test_the_meters_of_all_processes_are_added_up(tmp_path: Path) -> None:
    """Also of those whose process has ended, in whichever folder, and of new ones once they are
    looked for; a file that is still being made counts for nothing.
    """
    (tmp_path / "replica").mkdir()
    reader = Reader(tmp_path)
    first = Meter(tmp_path)
    first.enqueued(10)
    assert reader.counts() == Counts(0, 0, 0)
    assert reader.find().counts() == Counts(10, 0, 0)
    second = Meter(tmp_path / "replica")
    for _ in range(3):
        second.started(100)
    second.completed(7000)
    del second
    (tmp_path / "1.meter").touch()
    assert reader.find().counts() == counts(tmp_path) == Counts(10, 3, 1)
    assert histogram.percentiles(end_to_end_latencies(tmp_path), [1.0]) == [
        pytest.approx(7.0, rel=1e-3)
    ]


def test_what_the_harness_asks_for_is_inserted() -> None:
    """Requests add up, in batches of at most the limit; other lines mean nothing."""
    credit = pacing.Credit(800.0, None)
    credit.read(["ENQUEUE 100\n", "hello\n", "ENQUEUE x\n", "\n", "ENQUEUE 50\n"])
    assert [credit.take(128, 0.0) for _ in range(3)] == [128, 22, 0]


def test_high_load_counts_each_request_more(tmp_path: Path) -> None:
    """The harness raises the rate in a file and goes on to ask as before. No part of a task is
    forgotten, and a file that is just being written changes nothing.
    """
    rate_file = tmp_path / "rate"
    credit = pacing.Credit(800.0, rate_file)
    rate_file.write_text("1200.0")
    credit.read(["ENQUEUE 1\n"] * 3)
    assert credit.take(10, 0.0) == 4
    credit.read(["ENQUEUE 1\n"])
    assert credit.take(10, 0.0) == 2
    rate_file.write_text("")
    credit.read(["ENQUEUE 7\n"])
    assert credit.take(10, 0.0) == 7


def test_a_rate_without_requests_is_credited_by_the_time_that_passed() -> None:
    """A late turn brings as much more as it is late."""
    credit = pacing.Credit(800.0, None)
    for seconds in (0.025, 0.1, 0.0005, 0.0005):
        credit.pass_time(seconds)
    assert credit.take(1000, 0.0) == 100
    credit.pass_time(0.0005)
    assert credit.take(1000, 0.0) == 1


@pytest.mark.parametrize(
    ("enqueued", "started", "expected"),
    [(0, 0, 128), (1900, 0, 100), (2000, 0, 0), (2500, 400, 0), (5000, 4999, 128), (10, 12, 128)],
)
def test_a_depth_target_is_filled_up(enqueued: int, started: int, expected: int) -> None:
    """Never above the depth, at most a batch at once; tasks of a killed replica, which start here
    and were not inserted here, do no harm.
    """
    assert pacing.missing(2000, enqueued, started, 128) == expected


def reading(seconds: float, tasks: int, latency: int = 0) -> samples.Reading:
    """Counters after so many tasks, all with this latency."""
    counted = tasks << (8 * 4 * histogram.bucket(latency))
    return samples.Reading(seconds, Counts(tasks, tasks, tasks), counted, counted)


def test_rates_are_of_the_last_sample_and_percentiles_of_thirty_seconds() -> None:
    """What is older than the window has no influence."""
    window = samples.Window(reading(0.0, 0))
    first = window.add(reading(5.0, 1000, latency=2000))
    assert (first["enqueue_rate"], first["completion_rate"]) == (200.0, 200.0)
    assert (first["claim_p50_ms"], first["end_to_end_p99_ms"]) == (2.0, 2.0)
    for n in range(2, 8):
        last = window.add(reading(5.0 * n, 1000, latency=2000))
        assert last["completion_rate"] == 0.0
        assert last["claim_p99_ms"] == (2.0 if 5.0 * n <= 30 else 0.0)


def test_a_sample_has_what_the_contract_asks_for() -> None:
    """Each metric is a line of JSON with the replica's number and its window."""
    metrics = samples.Window(reading(0.0, 0)).add(reading(2.0, 10, latency=1000))
    assert set(metrics) >= REQUIRED
    lines = [json.loads(line) for line in samples.lines(metrics, 1, 1_780_000_000.25, 2)]
    assert {line["metric"] for line in lines} == set(metrics)
    for line in lines:
        assert (line["kind"], line["subject_kind"], line["system"]) == ("adapter",) * 2 + ("peers",)
        assert (line["instance_id"], line["t"]) == (1, "2026-05-28T20:26:40.250Z")
        assert line["window_s"] == (30.0 if line["metric"].endswith("_ms") else 2.0)


def test_the_descriptor_agrees_with_the_manifest() -> None:
    """The harness refuses an adapter whose first line lacks a table of adapter.json."""
    manifest = json.loads(MANIFEST.read_text())
    record = json.loads(samples.descriptor(manifest, "1.0", "1", 0, 0.0))
    assert record["kind"] == "descriptor"
    assert record["system"] == manifest["system"] == samples.SYSTEM == verdict.SYSTEM
    for name in ("event_tables", "extensions", "db_name"):
        assert record[name] == manifest[name]


@pytest.mark.parametrize(("now", "expected"), [(12.3, 15), (15.0, 20), (14.999, 15)])
def test_samples_are_taken_at_ticks_of_the_wall_clock(now: float, expected: int) -> None:
    """So that those of all systems line up."""
    assert samples.next_tick(now, 5) == expected


def test_the_variables_have_the_defaults_of_the_contract() -> None:
    """Only the database has none."""
    options = Options.read({"DATABASE_URL": "postgresql:///x"})
    assert (options.rate, options.workers, options.batch_max, options.payload_bytes) == (
        800.0, 32, 128, 256,
    )  # fmt: skip
    assert not options.depth_target
    assert options.observes
    assert not Options.read({"DATABASE_URL": "", "BENCH_INSTANCE_ID": "1"}).observes
    with pytest.raises(KeyError):
        Options.read({})


def test_the_harness_settings_are_those_of_its_file() -> None:
    """Comments and what the embedded server decides itself are left out; commits stay durable."""
    text = "# a = b\nmax_connections = 400  # why\nlisten_addresses = '*'\nwal_level = replica\n"
    assert server.settings(text) == {
        "fsync": "on", "full_page_writes": "on", "max_connections": "400", "wal_level": "replica",
    }  # fmt: skip


def test_every_cell_is_one_of_the_issue_and_ends_within_two_minutes() -> None:
    """Five chaos cells, four pressure cells and one of our own; the first phase is a warm-up."""
    groups = [cell.group for cell in CELLS]
    assert (groups.count("chaos"), groups.count("pressure")) == (5, 5)
    for cell in CELLS:
        seconds = [int(phase.rpartition(":")[2].rstrip("s")) for phase in cell.phases]
        assert sum(seconds) < 120
        labels = [phase.partition("=")[0] for phase in cell.phases]
        assert labels[0] == "warmup"
        assert labels == [phase.partition("=")[0] for phase in cell.full]
        assert {cell.calm, cell.stress, cell.recovery} - {None} <= set(labels)


CHAOS, PRESSURE = CELLS[0], next(cell for cell in CELLS if cell.group == "pressure")
CLEAN = verdict.Audit(acknowledged=100, jobs=101, completed=101, calls=103, problems=0)


def summary(**rates: float) -> dict[str, Any]:
    """The harness's summary, with these median rates."""
    phases = {
        label: {"metrics": {"completion_rate": {"median": rate}}} for label, rate in rates.items()
    }
    return {"systems": {"peers": {"phases": phases}}}


def judged(cell: Cell, exit_code: int = 0, audit: verdict.Audit = CLEAN, **rates: float) -> bool:
    """Whether the cell passes."""
    return verdict.judge(cell, summary(**rates), exit_code, 1.0, audit).passed


def test_a_cell_passes_if_work_goes_on_after_the_stress() -> None:
    """As in the published table: no recovery, or a run that does not end, is a failure."""
    assert judged(CHAOS, baseline=600.0, kill=300.0, recovery=590.0)
    assert not judged(CHAOS, baseline=600.0, kill=300.0, recovery=0.0)
    assert not judged(CHAOS, baseline=600.0, kill=300.0)
    assert not judged(CHAOS, exit_code=1, baseline=600.0, recovery=590.0)
    assert judged(PRESSURE, clean_1=600.0, stress_1=300.0, recovery_1=590.0)
    assert not judged(PRESSURE, exit_code=137, clean_1=600.0, stress_1=300.0, recovery_1=590.0)
    assert not verdict.judge(CHAOS, None, 1, 1.0, CLEAN).passed


@pytest.mark.parametrize(
    "spoiled",
    [
        replace(CLEAN, acknowledged=102),  # an INSERT was acknowledged, and its task is gone
        replace(CLEAN, completed=100),  # one is not finished
        replace(CLEAN, calls=100),  # one was recorded without a handler that ran
        replace(CLEAN, problems=1),
        replace(CLEAN, acknowledged=0, jobs=0, completed=0, calls=0),  # nothing happened
    ],
)
def test_no_job_may_be_lost(spoiled: verdict.Audit) -> None:
    """However well the rates recover."""
    assert not judged(CHAOS, audit=spoiled, baseline=600.0, recovery=600.0)


def test_the_page_holds_each_cell_beside_the_published_figures() -> None:
    """A failure is there as well as a success, and rates that are missing are not zeros."""
    results = {
        CHAOS.name: verdict.judge(
            CHAOS, summary(baseline=600.0, kill=300.0, recovery=540.0), 0, 90.0, CLEAN
        ),
        PRESSURE.name: verdict.judge(PRESSURE, None, 137, 900.0, replace(CLEAN, completed=1)),
    }
    text = page.page(results, full=False)
    assert f"| `{CHAOS.name}` | {CHAOS.title} | 600 | 300 | 540 | 90% | 601 | 98% |" in text
    assert "| - | - | - | - | 2,851 | 75% | 101 | 100 | 102 | FAIL |" in text
    assert "Passed: 1 of 1." in text
    assert "Passed: 0 of 1." in text
    assert "throughput_" not in text
