"""What starts and stops peers by peers.demand: the script for systemd, and the query for KEDA."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from tests.support.cli import PATIENCE, PROJECT
from tests.support.server import as_url
from tests.support.world import Peer, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection

FOLDER: Final = PROJECT / "deploy/demand"
_SYSTEMCTL: Final = """#!/bin/sh
# systemctl, with a file for each unit that is active
for word; do
    case $word in
    is-active | start | stop) verb=$word ;;
    *.service) unit=$word ;;
    esac
done
case $verb in
is-active) test -e "$UNITS/$unit" ;;
start) touch "$UNITS/$unit" ;;
stop) rm "$UNITS/$unit" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("psql") is None, reason="it needs psql")


class Host:
    """A host with a systemctl of its own, and the script."""

    def __init__(self, folder: Path, url: str) -> None:
        self._programs, self._units = folder / "bin", folder / "units"
        self._url = url
        for made in (self._programs, self._units):
            made.mkdir()
        fake = self._programs / "systemctl"
        fake.write_text(_SYSTEMCTL)
        fake.chmod(0o755)

    def scale(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the script once."""
        plain = {"PATH": f"{self._programs}:{os.environ['PATH']}", "UNITS": str(self._units)}
        return subprocess.run(
            [FOLDER / "peers-scale"], capture_output=True, text=True, timeout=PATIENCE,
            check=False, env={**plain, "SCALE_DATABASE_URL": self._url, **settings},
        )  # fmt: skip

    @property
    def peers(self) -> str:
        """Return the numbers of the peers that run."""
        return " ".join(sorted(each.name[6:-8] for each in self._units.iterdir()))


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Host:
    """A host on which nothing runs."""
    return Host(tmp_path, as_url(database_url))


def test_peers_start_at_once_and_stop_one_by_one(host: Host, db: Connection) -> None:
    """Between the least and the most, by what the queue can use."""
    assert host.scale().returncode == 0
    assert host.peers == "1"
    for _ in range(17):
        submit(db)
    found = host.scale()
    assert found.stdout.splitlines() == [
        f"queue default wants 17 slots: starting peers@{number}" for number in (2, 3)
    ]
    assert host.scale().stdout == ""
    host.scale(SCALE_SLOTS="1")
    assert host.peers == "1 2 3 4"
    run(db, "select * from peers.cancel_tasks('{\"all\": true}')")
    for left in ("1 2 3", "1 2", "1", "1"):
        assert host.scale().returncode == 0
        assert host.peers == left
    host.scale(SCALE_MIN="0")
    assert host.peers == ""


def test_each_queue_and_host_has_its_share(host: Host, db: Connection) -> None:
    """A quote in the name of a queue is no SQL; several hosts share what is wanted."""
    for _ in range(20):
        submit(db, queue="o'clock")
    host.scale(SCALE_QUEUE="o'clock", SCALE_SLOTS="5", SCALE_HOSTS="2")
    assert host.peers == "1 2"


def test_without_a_database_nothing_changes(host: Host, db: Connection) -> None:
    """The script fails, so that the unit does, and stops no peer."""
    for _ in range(16):
        submit(db)
    host.scale()
    assert host.peers == "1 2"
    found = host.scale(SCALE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert found.returncode != 0
    assert host.peers == "1 2"


def test_the_query_for_keda_returns_one_number(db: Connection) -> None:
    """Also for a queue that has no row, and with the rights of a reader."""
    scaled, login = yaml.safe_load_all((FOLDER / "scaledobject.yaml").read_text())
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    query = trigger["metadata"]["query"]
    run(db, "set role peers_reader")
    assert value(db, query) == 0
    run(db, "reset role")
    Peer.join(db)
    submit(db)
    run(db, "set role peers_reader")
    assert value(db, query) == 1
