"""Real peers count what they do, and show it to monitoring whatever becomes of the database."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peers.metrics import catalog
from tests.e2e.harness import PeerProcess, Stage, until
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = "127.0.0.1:0"


def get(peer: PeerProcess, path: str) -> tuple[int, str]:
    """The status and the body of a page of a peer."""
    address = peer.await_event("metrics_served")["address"]
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(peer: PeerProcess, name: str) -> dict[str, float]:
    """The values of a metric, by the kind or the state."""
    status, page = get(peer, "/metrics")
    assert status == 200
    return {
        sample.labels.get("kind") or sample.labels.get("state", ""): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def totals(stage: Stage) -> dict[str, Any]:
    """What the database has of kind noop, boom and so on, added up."""
    return stage.row(
        "select sum(completed)::integer as completed, sum(failed)::integer as failed,"
        " sum(retried)::integer as retried, sum(dead)::integer as dead,"
        " sum(reclaimed)::integer as reclaimed,"
        " sum((select sum(b) from unnest(run_buckets) b))::integer as run,"
        " sum((select sum(b) from unnest(wait_buckets) b))::integer as wait from peers.metric"
    )


def test_what_a_peer_counts_is_what_happened(stage: Stage) -> None:
    """To the task: completions, failures, retries, deaths, runs and waits; and in the database."""
    peer = stage.peer(slots=2, metrics_listen=HERE, heartbeat_interval="1 h", lease_timeout="5 h")
    stage.db.execute(
        "insert into peers.task (kind, args) select 'noop', jsonb_build_object('n', n)"
        " from generate_series(1, 1500) n"
    )
    stage.db.execute(
        "insert into peers.task (kind, max_attempts) select 'boom', 3 from generate_series(1, 4)"
    )
    stage.until_ended()
    until(lambda: samples(peer, "peers_tasks_dead_total").get("boom") == 4, "the deaths")
    assert samples(peer, "peers_tasks_completed_total")["noop"] == 1500
    assert samples(peer, "peers_attempts_failed_total")["boom"] == 12
    assert samples(peer, "peers_tasks_retried_total")["boom"] == 8
    assert samples(peer, "peers_task_run_seconds_count") == {"noop": 1500, "boom": 12}
    assert samples(peer, "peers_task_wait_seconds_count") == {"noop": 1500, "boom": 12}
    assert samples(peer, "peers_tasks_stale_total")["noop"] == 0
    assert peer.terminate() == 0
    found = totals(stage)
    assert found == {
        "completed": 1500, "failed": 12, "retried": 8, "dead": 4, "reclaimed": 0, "run": 1512,
        "wait": 1512,
    }  # fmt: skip


def test_counts_of_a_killed_peer_stay_and_its_tasks_are_counted_by_the_next(stage: Stage) -> None:
    """Totals never fall: the survivor counts what it takes back."""
    first = stage.peer(metrics_listen=HERE, heartbeat_interval="100 ms", lease_timeout="2 s")
    stage.until_state("completed", stage.submit("noop"))
    stage.until_true("select sum(completed) = 1 from peers.metric")
    held = stage.submit("held", {"gate": stage.gate()}, max_attempts=1)
    stage.until_started(held)
    second = stage.peer(metrics_listen=HERE, heartbeat_interval="100 ms", lease_timeout="2 s")
    first.kill()
    stage.until_state("dead", held)
    until(lambda: samples(second, "peers_tasks_reclaimed_total").get("held") == 1, "the reclaim")
    assert samples(second, "peers_tasks_dead_total") == {"held": 1}
    stage.until_true("select sum(reclaimed) = 1 and sum(completed) = 1 from peers.metric")


@pytest.fixture
def proxy(stage: Stage) -> Iterator[Proxy]:
    """The way from the peers to their database, which can be cut."""
    with Proxy(stage.url) as made:
        yield made


def test_monitoring_works_while_the_database_is_away(stage: Stage, proxy: Proxy) -> None:
    """The process is healthy and not ready; it still shows what it has counted itself."""
    peer = stage.peer(
        database_url=proxy.url,
        metrics_listen=HERE,
        lease_timeout="3 s",
        heartbeat_interval="300 ms",
    )
    stage.until_state("completed", stage.submit("noop"))
    until(lambda: get(peer, "/readyz") == (200, "ready\n"), "the peer to be ready")
    assert samples(peer, "peers_queue_tasks")["ready"] == 0
    proxy.silent = True
    until(lambda: get(peer, "/readyz")[0] == 503, "the peer not to be ready")
    assert get(peer, "/healthz") == (200, "ok\n")
    assert samples(peer, "peers_tasks_completed_total") == {"noop": 1}
    proxy.silent = False
    until(lambda: get(peer, "/readyz")[0] == 200, "the peer to be ready again")
    until(lambda: samples(peer, "peers_queue_tasks"), "the gauges")


def test_a_draining_peer_is_not_ready(stage: Stage) -> None:
    """So that nobody counts on it; and it is healthy until its end."""
    peer = stage.peer(metrics_listen=HERE)
    held = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(held)
    peer.send(signal.SIGTERM)
    until(lambda: get(peer, "/readyz") == (503, "draining\n"), "the drain")
    assert get(peer, "/healthz")[0] == 200
    stage.open(stage.gate())
    assert peer.wait() == 0


def test_a_hung_peer_is_not_healthy(stage: Stage) -> None:
    """Only a restart repairs a process that makes no progress. Here it is stopped as a whole."""
    peer = stage.peer(metrics_listen=HERE, lease_timeout="1 s", heartbeat_interval="100 ms")
    address = peer.await_event("metrics_served")["address"]
    peer.send(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(f"http://{address}/healthz", timeout=0.5)
    finally:
        peer.send(signal.SIGCONT)
    until(lambda: get(peer, "/healthz")[0] == 200, "the peer to go on")


def test_a_port_in_use_ends_the_second_peer(stage: Stage) -> None:
    """With 78, which no service manager repeats; with a plus it takes the next port."""
    first = stage.peer(metrics_listen=HERE)
    address = first.await_event("metrics_served")["address"]
    second = stage.launch(metrics_listen=address)
    assert second.wait() == 78
    assert "Address already in use" in second.log.read_text()
    third = stage.peer(metrics_listen=f"{address}+")
    assert third.await_event("metrics_served")["address"] != address
    assert get(third, "/readyz")[0] == 200


def test_without_the_setting_nothing_listens(stage: Stage) -> None:
    """Off by default; the counts are reported all the same."""
    peer = stage.peer()
    stage.until_state("completed", stage.submit("noop"))
    assert peer.terminate() == 0
    assert peer.events("metrics_served") == []
    assert totals(stage)["completed"] == 1


def test_the_page_has_every_metric(stage: Stage) -> None:
    """By the names and the types of the catalog, and nothing else."""
    peer = stage.peer(metrics_listen=HERE)
    families = {
        family.name: family.type
        for family in text_string_to_metric_families(get(peer, "/metrics")[1])
    }
    assert families == {each.name.removesuffix("_total"): each.type for each in catalog.ALL}


def test_an_idle_peer_reports_nothing(stage: Stage) -> None:
    """Only what is new is sent."""
    peer = stage.peer(heartbeat_interval="100 ms", lease_timeout="2 s")
    stage.until_state("completed", stage.submit("noop"))
    stage.until_true("select sum(completed) = 1 from peers.metric")
    before = json.dumps(
        stage.rows("select xmin::text, kind, completed from peers.metric order by minute"),
        default=str,
    )
    stage.until_true(
        "select heartbeat_at > joined_at + interval '1 s' from peers.peer where id = %s",
        peer.joined(),
    )
    after = json.dumps(
        stage.rows("select xmin::text, kind, completed from peers.metric order by minute"),
        default=str,
    )
    assert before == after
