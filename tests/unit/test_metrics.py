"""What a peer counts, what it reports, and what Prometheus reads."""

from __future__ import annotations

import sys
from typing import Any, cast
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peers.database import functions
from peers.database.binary import pack_ids
from peers.database.connection import Connection
from peers.database.rows import ClaimReply
from peers.errors import ConfigError, DatabaseUnreachable
from peers.metrics.counts import MOST_KINDS, OTHER, Counts
from peers.metrics.exposition import Exposition, require_library
from peers.metrics.gauges import Gauges
from peers.metrics.histogram import BOUNDS, Histogram
from peers.metrics.report import Report
from peers.settings import Settings
from peers.settings.values import ListenAddress

NOW = 800_000_000_000_000
CONNECTION = cast("Connection", None)


def claim_of(moments: list[int], *kinds: str) -> ClaimReply:
    """A claim of tasks that became ready at these moments."""
    return ClaimReply(
        b"t" * 16, len(moments), b"", b"", kinds or ("a",), (100,), None, b"[]", None, more=False,
        ready_at=pack_ids(moments), claimed_at=NOW,
    )  # fmt: skip


def ago(seconds: float) -> int:
    """A moment before the claim."""
    return NOW - round(seconds * 1e6)


# ---------------------------------------------------------------------------------------- counts


def test_a_duration_is_in_the_bucket_up_to_its_bound() -> None:
    """A bound is part of its bucket; what exceeds all bounds is in the last one."""
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.observe(seconds)
    assert histogram.buckets[:2] == [2, 1]
    assert histogram.buckets[-2:] == [1, 1]
    assert sum(histogram.buckets) == 5


def test_every_task_of_a_claim_is_counted_once() -> None:
    """Few exactly, many from samples: the number is right, and so is the part of each bucket."""
    for count in (1, 2, 7, 8, 9, 100, 1000):
        counts = Counts()
        counts.claimed(
            "q", claim_of([ago(3.0)] * (count // 2) + [ago(0.02)] * (count - count // 2))
        )
        wait = counts.of("q", "a").wait
        assert sum(wait.buckets) == count
        long = wait.buckets[BOUNDS.index(5.0)]
        assert abs(long - count // 2) <= count / 8
        assert wait.seconds == pytest.approx(long * 3.0 + (count - long) * 0.02)


def test_a_claim_of_several_kinds_is_counted_by_kind() -> None:
    """Each kind has its own waits."""
    counts = Counts()
    counts.claimed("q", claim_of([ago(0.002), ago(40), ago(0.002)], "a", "b", "a"))
    assert sum(counts.of("q", "a").wait.buckets) == 2
    assert counts.of("q", "b").wait.buckets[BOUNDS.index(60.0)] == 1


def test_a_clock_that_was_set_back_makes_no_negative_wait() -> None:
    """A task that became ready after its claim has waited for no time."""
    counts = Counts()
    counts.claimed("q", claim_of([NOW + 5_000_000]))
    assert counts.of("q", "a").wait.buckets[0] == 1
    assert counts.of("q", "a").wait.seconds == 0


def test_an_empty_claim_counts_nothing() -> None:
    """Nor does it add a kind."""
    counts = Counts()
    counts.claimed("q", ClaimReply(b"", 0, b"", b"", (), (), None, b"[]", None, more=False))
    assert counts.by_kind() == []


def test_ten_thousand_kinds_are_bounded() -> None:
    """What is beyond the bound is counted together, and nothing is lost."""
    counts = Counts()
    for number in range(10_000):
        counts.completed("q", f"kind-{number}", 1)
    assert len(counts.by_kind()) <= MOST_KINDS + 1
    assert sum(each.completed for _, each in counts.by_kind()) == 10_000
    assert counts.of("q", OTHER).completed == 10_000 - MOST_KINDS


@pytest.mark.parametrize(
    ("verdict", "failed", "retried", "dead"),
    [("retried", 1, 1, 0), ("dead", 1, 0, 1), ("cancelled", 0, 0, 0), ("snoozed", 0, 0, 0),
     ("already", 1, 0, 0)],
)  # fmt: skip
def test_a_failure_is_counted_by_what_followed(
    verdict: Any, failed: int, retried: int, dead: int
) -> None:
    """A cancelled or snoozed attempt is no failure."""
    counts = Counts()
    counts.recorded_failure("q", "a", verdict)
    found = counts.of("q", "a")
    assert (found.failed, found.retried, found.dead) == (failed, retried, dead)


# ---------------------------------------------------------------------------------------- report


class Database:
    """Keeps what is reported, or refuses it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reports: list[list[dict[str, Any]]] = []
        self.error: Exception | None = None
        monkeypatch.setattr(functions, "record_metrics", self._record)

    def _record(self, _connection: object, _peer: object, metrics: list[dict[str, Any]]) -> None:
        if self.error is not None:
            raise self.error
        self.reports.append(metrics)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database that takes reports."""
    return Database(monkeypatch)


def test_an_idle_peer_reports_nothing(database: Database) -> None:
    """Only what has changed since the last report is sent."""
    counts = Counts()
    report = Report(counts)
    report.send(CONNECTION, uuid4())
    assert database.reports == []
    counts.completed("q", "a", 3)
    counts.completed("q", "b", 1)
    report.send(CONNECTION, uuid4())
    report.send(CONNECTION, uuid4())
    counts.completed("q", "b", 2)
    report.send(CONNECTION, uuid4())
    assert database.reports == [
        [{"queue": "q", "kind": "a", "completed": 3}, {"queue": "q", "kind": "b", "completed": 1}],
        [{"queue": "q", "kind": "b", "completed": 2}],
    ]


def test_a_report_that_failed_is_sent_with_the_next_one(database: Database) -> None:
    """Nothing is lost while the database is away."""
    counts = Counts()
    report = Report(counts)
    counts.ran("q", "a", 0.002, 4)
    counts.fenced += 1
    database.error = DatabaseUnreachable("away")
    with pytest.raises(DatabaseUnreachable):
        report.send(CONNECTION, uuid4())
    database.error = None
    counts.ran("q", "a", 0.002, 1)
    report.send(CONNECTION, uuid4())
    [[kind, fenced]] = database.reports
    assert sum(kind["run_buckets"]) == 5
    assert kind["run_seconds"] == pytest.approx(0.01)
    assert "wait_buckets" not in kind
    assert fenced == {"fenced": 1}


# ---------------------------------------------------------------------------------- the page


class Broken:
    """A database that cannot be reached; counts the tries."""

    tries = 0

    def connect(self) -> Connection:
        """Fail."""
        self.tries += 1
        raise DatabaseUnreachable("away")


def read_page(counts: Counts, broken: Broken) -> dict[tuple[Any, ...], float]:
    """The samples of the page, by name and labels."""
    page, _ = Exposition(counts, Gauges(broken.connect)).page("")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_the_page_has_the_peers_own_counts_while_the_database_is_away() -> None:
    """And no gauges: old ones would look as if they were true."""
    counts = Counts()
    counts.completed("q", "a", 3)
    counts.ran("q", "a", 0.3, 2)
    found = read_page(counts, Broken())
    labels = (("kind", "a"), ("queue", "q"))
    assert found["peers_tasks_completed_total", *labels] == 3
    assert found["peers_tasks_dead_total", *labels] == 0
    assert found["peers_task_run_seconds_count", *labels] == 2
    assert found["peers_task_run_seconds_sum", *labels] == pytest.approx(0.6)
    assert (
        found["peers_task_run_seconds_bucket", ("kind", "a"), ("le", "0.25"), ("queue", "q")] == 0
    )
    assert found["peers_task_run_seconds_bucket", ("kind", "a"), ("le", "0.5"), ("queue", "q")] == 2
    assert not any(name[0].startswith("peers_queue") for name in found)


def test_names_in_labels_are_escaped() -> None:
    """Whatever a kind is called, the page can be parsed and says its name."""
    name = 'a"b\\c\nd{},=é🙂'
    counts = Counts()
    counts.completed("q", name, 1)
    found = read_page(counts, Broken())
    assert found["peers_tasks_completed_total", ("kind", name), ("queue", "q")] == 1


def test_many_readers_cost_the_database_one_query() -> None:
    """Also while it cannot be reached: then readers would wait, each for the timeout."""
    broken = Broken()
    gauges = Gauges(broken.connect)
    for _ in range(50):
        assert gauges.read() == ()
    assert broken.tries == 1


# ---------------------------------------------------------------------------------- settings


def test_a_missing_library_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match="prometheus-client") as error:
        require_library()
    assert error.value.hint is not None
    assert "pip install 'peers[metrics]'" in error.value.hint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9187", ListenAddress("127.0.0.1", 9187, or_next=False)),
        ("9187+", ListenAddress("127.0.0.1", 9187, or_next=True)),
        ("0.0.0.0:9187", ListenAddress("0.0.0.0", 9187, or_next=False)),
        ("[::1]:0", ListenAddress("::1", 0, or_next=False)),
        ("peers-1.example.org:80", ListenAddress("peers-1.example.org", 80, or_next=False)),
    ],
)
def test_a_port_alone_is_on_loopback(text: str, address: ListenAddress) -> None:
    """Nothing is shown to other machines unless the setting says so."""
    assert Settings(metrics_listen=text).metrics_listen == address


@pytest.mark.parametrize("text", ["x", "70000", ":9187", "-1", "1.2.3.4", "9187++"])
def test_an_address_that_makes_no_sense_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ConfigError, match="must be a port"):
        Settings(metrics_listen=text)
