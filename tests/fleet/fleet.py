"""The fleet: a machine with Postgres, and two with two peers each, as an operator sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from tests.e2e import ledger
from tests.e2e.audit import JOURNAL
from tests.fleet.image import Wheels
from tests.fleet.isolation import Groups
from tests.fleet.machines import Machine, make_network
from tests.fleet.provision import DATABASE_ADDRESS, HOST_ADDRESSES, URL, configure, set_up
from tests.fleet.submitter import Submitter
from tests.fleet.watch import START, until

PEERS: Final = ("peers@1", "peers@2")
"""The units of each host."""
SLOTS: Final = 2
"""Of each peer, in the queue default."""
_FIRST_QUEUES: Final = ("default=2,hogs=1", "default=2")
"""The queues of peers@1 on each host."""

_TIMES: Final = """
alter table journal.entry add column at timestamptz not null default clock_timestamp();
grant peers_worker to peers;
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
            for name, address in {"db": DATABASE_ADDRESS, **HOST_ADDRESSES}.items()
        )
        self.submitter = Submitter(URL)
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    @property
    def machines(self) -> list[Machine]:
        """Return all machines."""
        return [self.db, *self.hosts]

    # ------------------------------------------------------------------------------------ set up

    def boot(self) -> None:
        """Boot all machines; then prepare Postgres and install the old release on the hosts."""
        make_network()
        for machine in self.machines:
            machine.install(self._image)
        for host, queues in zip(self.hosts, _FIRST_QUEUES, strict=True):
            configure(host, queues, self._unit_lines)
        for machine in self.machines:
            machine.power_on()
        for machine in self.machines:
            machine.await_boot()
        set_up(self.db, self.hosts, self.wheels)

    def watch_tasks(self) -> None:
        """Let the database note each change of a task, for the audit."""
        self.rows(JOURNAL)
        self.rows(_TIMES)

    # ---------------------------------------------------------------------------------- database

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a query on the database, with a new connection if the last one was lost."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(URL, autocommit=True, row_factory=dict_row)
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

    def running(self, host: Machine, pids: list[int]) -> Attempts:
        """Return what the peers with these pids have claimed."""
        rows = self.rows(_RUNNING, host.name, pids)
        return Attempts([row["id"] for row in rows], [row["token"] for row in rows])

    def started(self, attempts: Attempts) -> Attempts:
        """Return those of these attempts whose handlers run, by the ledger."""
        entries = ledger.read(self.ledger)
        leases = {entry.lease for entry in entries if entry.event == "start"}
        leases -= {entry.lease for entry in entries if entry.event == "end"}
        pairs = zip(attempts.task_ids, attempts.tokens, strict=True)
        running = [pair for pair in pairs if pair in leases]
        return Attempts([task_id for task_id, _ in running], [token for _, token in running])

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
        """Keep these peers busy for some seconds; return what they have claimed."""
        for number in range(4 * SLOTS):
            self.submitter.submit("step", n=number, seconds=3.0)
        slots = SLOTS * len(units)
        pids = [self.main_pid(host, unit) for unit in units]

        def all_busy() -> bool:
            return len(self.started(self.running(host, pids))) >= slots

        until(all_busy, f"{slots} running handlers", START)
        return self.running(host, pids)

    # ---------------------------------------------------------------------------------- the end

    def end(self) -> None:
        """End all machines at once."""
        self.submitter.give_up()
        if self._connection is not None:
            self._connection.close()
        for machine in self.machines:
            machine.kill()
