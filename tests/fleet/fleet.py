"""The fleet: a machine with Postgres, and two with two peers each, as an operator sees them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from tests.e2e import ledger
from tests.e2e.audit import JOURNAL
from tests.fleet.image import FILES, PROJECT, Wheels
from tests.fleet.isolation import Groups
from tests.fleet.machines import Machine, make_network
from tests.fleet.submitter import Submitter
from tests.fleet.watch import until

PEERS: Final = ("peers@1", "peers@2")
"""The units of each host."""
SLOTS: Final = 2
"""Of each peer, in the queue default."""

_DB: Final = "10.20.0.2"
_HOSTS: Final = {"host1": "10.20.0.11", "host2": "10.20.0.12"}

_ROLES: Final = """
alter role postgres password 'fleet';
create role shop_owner login createrole password 'owner';
create role peers login password 'worker';
"""
_DATABASE: Final = """
create database shop owner shop_owner encoding 'UTF8' template template0
    lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8'
"""
_TIMES: Final = """
alter table journal.entry add column at timestamptz not null default clock_timestamp();
grant peers_worker to peers;
"""
_COPY_UNITS: Final = """
set -e
units=$(/opt/peers/bin/peers deploy systemd)
cp "$units"/*.service "$units"/*.target /etc/systemd/system/
systemctl daemon-reload
"""
_RUNNING: Final = """
    select t.id, t.token::text from peers.task t join peers.lease l using (token)
    join peers.peer p on p.id = l.peer_id
    where t.state = 'running' and p.host = %s and p.pid = any (%s)
"""
_UNDER: Final = """
    select count(*) from peers.task
    where state = %s and (id, token) in (select * from unnest(%s::bigint[], %s::uuid[]))
"""


@dataclass(frozen=True)
class Attempts:
    """Attempts that ran at some moment: a task, and the token that it ran under."""

    task_ids: list[int]
    tokens: list[str]

    def __len__(self) -> int:
        return len(self.task_ids)


class Fleet:
    """Three machines, what runs on them, and the database as a superuser sees it."""

    def __init__(
        self, run: str, folder: Path, image: Path, wheels: Wheels, unit_lines: list[str]
    ) -> None:
        """`unit_lines` are added to the unit of the peers."""
        self._image, self.wheels, self._unit_lines = image, wheels, unit_lines
        self.ledger = folder / "ledger" / "ledger"
        self.ledger.parent.mkdir(mode=0o777)
        self.ledger.parent.chmod(0o777)
        binds = {wheels.folder: "/wheels", self.ledger.parent: "/srv/ledger"}
        self.db, *self.hosts = (
            Machine(name, address, folder / name, binds, Groups(run, name))
            for name, address in {"db": _DB, **_HOSTS}.items()
        )
        self.submitter = Submitter(self.url)
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    @property
    def machines(self) -> list[Machine]:
        """Return all machines."""
        return [self.db, *self.hosts]

    @property
    def url(self) -> str:
        """Return the URL of the database for this process."""
        return f"postgresql://postgres:fleet@{_DB}/shop?connect_timeout=5"

    # ------------------------------------------------------------------------------------ set up

    def boot(self) -> None:
        """Boot all machines; then prepare Postgres and install the old release on the hosts."""
        make_network()
        for machine in self.machines:
            machine.install(self._image)
        for host in self.hosts:
            self._configure(host)
        for machine in self.machines:
            machine.power_on()
        for machine in self.machines:
            machine.await_boot()
        with ThreadPoolExecutor() as threads:
            jobs = [threads.submit(self.install, host, "old") for host in self.hosts]
            jobs.append(threads.submit(self._set_up_postgres))
        for job in jobs:
            job.result()

    def _configure(self, host: Machine) -> None:
        """Write what an operator writes on a host: settings, credentials, the app, a drop-in."""
        host.write("/etc/peers/peers.env", (FILES / "peers.env").read_text())
        host.write(
            "/etc/credstore/peers_database_url", f"postgresql://peers:worker@{_DB}/shop\n", 0o600
        )
        host.write(
            "/etc/credstore/peers_migrate_url", f"postgresql://shop_owner:owner@{_DB}/shop\n", 0o600
        )
        drop_in = "\n".join(["[Service]", *self._unit_lines, ""])
        host.write("/etc/systemd/system/peers@.service.d/fleet.conf", drop_in)
        if host is self.hosts[0]:
            host.write("/etc/peers/peers-1.env", "PEERS_QUEUES=default=2,hogs=1\n")
        host.write("/srv/peers/fleet_app.py", (FILES / "fleet_app.py").read_text())
        host.write(
            "/srv/peers/tests/e2e/ledger.py", (PROJECT / "tests" / "e2e" / "ledger.py").read_text()
        )

    def _set_up_postgres(self) -> None:
        self.db.run("systemctl", "start", "postgresql@15-main")
        for script in (_ROLES, _DATABASE):
            self.db.run(
                "runuser", "-u", "postgres", "--", "psql", "-qv", "ON_ERROR_STOP=1", "-c", script
            )

    def install(self, host: Machine, release: str) -> None:
        """Install a release beside the other one, and let /opt/peers lead to it."""
        version = self.wheels.old if release == "old" else self.wheels.new
        wheel = f"/wheels/peers-{version}-py3-none-any.whl"
        host.run(
            f"/opt/peers-{release}/bin/pip",
            "install",
            "--quiet",
            "--no-index",
            "--find-links",
            "/wheels",
            wheel,
        )
        host.run("ln", "-sfn", f"peers-{release}", "/opt/peers")
        host.run("sh", "-c", _COPY_UNITS)

    def watch_tasks(self) -> None:
        """Let the database note each change of a task, for the audit."""
        self.rows(JOURNAL)
        self.rows(_TIMES)

    # ---------------------------------------------------------------------------------- database

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a query on the database, with a new connection if the last one was lost."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.url, autocommit=True, row_factory=dict_row)
        try:
            cursor = self._connection.execute(query, arguments or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError:
            self._connection.close()
            raise

    def value(self, query: str, *arguments: object) -> Any:
        """Return the only value of a query."""
        [row] = self.rows(query, *arguments)
        return next(iter(row.values()))

    @property
    def connection(self) -> psycopg.Connection[dict[str, Any]]:
        """Return the connection of the last query."""
        assert self._connection is not None
        return self._connection

    def alive(self) -> list[tuple[str, int]]:
        """Return host and pid of each live peer that serves the queue default."""
        query = "select host, pid from peers.peer_status where alive and queues ? 'default'"
        return [(row["host"], row["pid"]) for row in self.rows(query)]

    def await_all_alive(self, within: float) -> float:
        """Wait until every peer that should live does, and return the seconds that it took."""
        number = len(PEERS) * len(self.hosts)
        return until(lambda: len(self.alive()) == number, f"{number} live peers", within)

    def running(self, host: Machine, *units: str) -> Attempts:
        """Return what these peers run."""
        pids = [self.main_pid(host, unit) for unit in units]
        rows = self.rows(_RUNNING, host.name, pids)
        return Attempts([row["id"] for row in rows], [row["token"] for row in rows])

    def started(self, attempts: Attempts) -> Attempts:
        """Return those of these attempts whose handlers had started, by the ledger."""
        leases = {entry.lease for entry in ledger.read(self.ledger) if entry.event == "start"}
        pairs = zip(attempts.task_ids, attempts.tokens, strict=True)
        begun = [pair for pair in pairs if pair in leases]
        return Attempts([task_id for task_id, _ in begun], [token for _, token in begun])

    def count(self, attempts: Attempts, state: str) -> int:
        """Return how many of these attempts are in this state now."""
        return int(self.value(_UNDER, state, attempts.task_ids, attempts.tokens))

    def await_ended(self, attempts: Attempts, within: float) -> float:
        """Wait until none of these attempts runs, and return the seconds that it took."""
        return until(lambda: self.count(attempts, "running") == 0, "the attempts' end", within)

    def completed(self) -> int:
        """Return how many tasks are completed."""
        return int(self.value("select count(*) from peers.task where state = 'completed'"))

    # ------------------------------------------------------------------------------------- hosts

    def show(self, host: Machine, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return host.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def main_pid(self, host: Machine, unit: str) -> int:
        """Return the pid of a peer on its host."""
        return int(self.show(host, unit, "MainPID"))

    def restarts(self) -> dict[str, int]:
        """Return how often systemd has restarted each peer."""
        return {
            f"{host.name} {unit}": int(self.show(host, unit, "NRestarts"))
            for host in self.hosts
            for unit in PEERS
        }

    def pids(self) -> dict[str, int]:
        """Return the pid of each peer."""
        return {
            f"{host.name} {unit}": self.main_pid(host, unit)
            for host in self.hosts
            for unit in PEERS
        }

    def releases(self) -> tuple[int, int]:
        """Return how many peers run the old release, and how many the new one."""
        programs = [
            host.run("cat", f"/proc/{self.main_pid(host, unit)}/cmdline")
            for host in self.hosts
            for unit in PEERS
        ]
        new = sum("/opt/peers-new/" in program for program in programs)
        return len(programs) - new, new

    def busy(self, host: Machine, *units: str) -> Attempts:
        """Keep these peers busy for some seconds; return what they run."""
        for number in range(4 * SLOTS):
            self.submitter.submit("step", n=number, seconds=3.0)
        slots = SLOTS * len(units)
        until(lambda: len(self.running(host, *units)) >= slots, "running tasks", 20.0)
        return self.running(host, *units)

    # ---------------------------------------------------------------------------------- the end

    def shut_down(self) -> None:
        """Stop all machines."""
        if self._connection is not None:
            self._connection.close()
        with ThreadPoolExecutor() as threads:
            list(threads.map(Machine.shut_down, self.machines))
