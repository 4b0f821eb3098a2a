"""A real Prometheus scrapes real peers: its alerts fire, and each panel has data."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from peers.metrics import catalog
from tests.e2e.harness import Stage, until
from tests.support.prometheus import DASHBOARD, RULES, Prometheus, binary, expressions, panels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Databases

HERE = "127.0.0.1:0"
needs_prometheus = pytest.mark.skipif(
    binary("prometheus") is None, reason="needs Prometheus (apt install prometheus)"
)
needs_promtool = pytest.mark.skipif(
    binary("promtool") is None, reason="needs promtool (apt install prometheus)"
)
one_process = pytest.mark.xdist_group("prometheus")  # the tests share the peers and Prometheus
NAMES = {each.name for each in catalog.ALL}


def rules() -> list[dict[str, Any]]:
    """The alert rules as they are shipped."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression reads, without the suffixes of histograms."""
    words = expression.replace("(", " ").replace("{", " ").replace("[", " ").split()
    found = {word.strip(")") for word in words if word.startswith("peers_")}
    return {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in found
    }


# ------------------------------------------------------------------------------------ the files


def test_rules_read_metrics_that_exist() -> None:
    """And each says what happened, and what to do. This needs no Prometheus."""
    for rule in rules():
        assert metrics_in(rule["expr"]) <= NAMES, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_panels_read_metrics_that_exist() -> None:
    """All of them are somewhere on the dashboard. Each query chooses its source by the variable."""
    read: set[str] = set()
    for panel in panels():
        for target, expression in zip(panel["targets"], expressions(panel), strict=True):
            assert target["datasource"]["uid"] == "${datasource}"
            read |= metrics_in(expression)
    assert read == NAMES


def test_the_dashboard_can_be_imported() -> None:
    """Its panels have ids and places of their own, and it names the source as a variable."""
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert [each["name"] for each in dashboard["templating"]["list"]] == [
        "datasource",
        "queue",
        "kind",
    ]


@needs_promtool
def test_every_rule_is_tested() -> None:
    """Each alert fires in one test of promtool, and does not in another."""
    promtool = binary("promtool")
    assert promtool is not None
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)
    example = RULES.parent / "prometheus.yml"
    subprocess.run([promtool, "check", "config", example], check=True, capture_output=True)
    file = RULES.with_name("peers.rules.test.yml")
    done = subprocess.run(
        [promtool, "test", "rules", file.name], cwd=file.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    fires: dict[str, set[bool]] = {}
    for case in yaml.safe_load(file.read_text())["tests"]:
        for expected in case["alert_rule_test"]:
            fires.setdefault(expected["alertname"], set()).add(bool(expected["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in rules()}


# --------------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def scene(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two peers with work of all kinds, and some trouble."""
    with databases.clone() as url, Stage(url, tmp_path_factory.mktemp("scene")) as made:
        for _ in range(2):
            made.peer("tests.e2e.app_metrics", "default=2,media=2", metrics_listen=HERE)
        made.db.execute(
            "insert into peers.limit (name, kind, max_running) values ('thumbs', 'thumbs.make', 3);"
            "insert into peers.schedule (name, cron, kind) values ('nightly', '@daily', 'a');"
            "insert into peers.task (kind) values ('nobody.runs.it')"
        )
        yield made


@pytest.fixture(scope="module")
def prometheus(scene: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes them."""
    targets = [peer.await_event("metrics_served")["address"] for peer in scene.peers]
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with Prometheus(folder, targets) as made:
        yield made


def keep_busy(stage: Stage) -> None:
    """Submit some more work of each kind."""
    stage.db.execute(
        "insert into peers.task (kind, queue) select 'thumbs.make', 'media'"
        " from generate_series(1, 9);"
        "insert into peers.task (kind) select 'mail.send' from generate_series(1, 5)"
    )


@one_process
@needs_prometheus
def test_an_alert_fires_and_every_panel_has_data(scene: Stage, prometheus: Prometheus) -> None:
    """A task that dies raises the alert for it; the alerts about peers are silent."""
    until(lambda: len(prometheus.query('up{job="peers"} == 1')) == 2, "both peers to be scraped")
    keep_busy(scene)
    until(lambda: prometheus.query('peers_tasks_dead_total{kind="mail.send"}'), "the first mails")
    assert "PeersNoPeer" not in prometheus.firing()
    parent = scene.submit("report.render", max_attempts=1)
    scene.db.execute(
        "select peers.submit('mail.send', depends_on => array[%s]::bigint[])", [parent]
    )
    scene.until_state("dead", parent)

    def has_died() -> bool:
        keep_busy(scene)  # mails die now and then
        return "PeersDeadLettersGrow" in prometheus.firing()

    until(has_died, "the alert")
    waiting = {
        (panel["title"], expression) for panel in panels() for expression in expressions(panel)
    }

    def all_have_data() -> bool:
        keep_busy(scene)
        waiting.difference_update([each for each in waiting if prometheus.query(each[1])])
        return not waiting

    until(all_have_data, f"data for {waiting}")
    never = {"PeersExpiredLeases", "PeersNoPeer", "PeersPeerMissing", "PeersDatabaseUnreachable"}
    assert not prometheus.firing() & never


@one_process
@needs_prometheus
def test_peers_agree_on_what_the_database_measures(scene: Stage, prometheus: Prometheus) -> None:
    """So max() over the peers is right, and what they count themselves adds up to the truth."""
    keep_busy(scene)
    scene.until_true(
        "select peers.next_due() is null and not exists (select from peers.task t"
        " where t.kind = 'thumbs.make' and t.state in ('ready', 'running', 'scheduled'))"
    )
    done = scene.row(
        "select count(*)::integer as done from peers.task"
        " where state = 'completed' and kind = 'thumbs.make'"
    )["done"]
    assert done > 0
    until(
        lambda: (
            [
                float(each["value"][1])
                for each in prometheus.query('sum(peers_tasks_completed_total{kind="thumbs.make"})')
            ]
            == [done]
        ),
        "the sum over the peers",
    )
    until(
        lambda: (
            {
                each["value"][1]
                for each in prometheus.query('count by (state) (peers_queue_tasks{queue="media"})')
            }
            == {"2"}
        ),
        "the gauges of both",
    )
