"""Real peers on a real database: start them, have the world happen to them, see what became."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import psycopg

from peers.pool import liveness
from tests.e2e import ledger
from tests.e2e.audit import JOURNAL, Audit, audit
from tests.e2e.ledger import Entry
from tests.support.forked_commands import ForkedProcess, needs_its_own_start, shared
from tests.support.server import Connection, open_connection
from tests.support.world import column, rows, submit

DEADLINE: Final = float(os.environ.get("PEERS_TEST_DEADLINE", "60"))
"""Seconds that anything awaited may take on the slowest machine."""
_LOOK_AGAIN: Final = 0.005
_LOOK_AGAIN_AT_LEAST: Final = 0.05
_SHARE: Final = 0.1
_SOURCES: Final = Path(__file__).parents[2]
_COMMAND: Final = [sys.executable, "-m", "peers", "run"]


def until(holds: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Ask again and again, at first often: asking costs the time of those that are waited for."""
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        assert waited < deadline, f"waited {deadline:g} s in vain for {what}"
        time.sleep(min(max(_LOOK_AGAIN, _SHARE * waited), _LOOK_AGAIN_AT_LEAST))


def workers_end(pids: list[int], deadline: float = DEADLINE) -> None:
    """Wait until none of these processes lives."""
    until(lambda: not any(_lives(pid) for pid in pids), f"the end of the workers {pids}", deadline)


def group_members(group: int) -> list[int]:
    """The pids of the living processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[2]) == group:
                found.append(int(folder.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


class PeerProcess:
    """A peer that was started from the command line. Its log is one JSON object a line."""

    def __init__(self, environment: dict[str, str], log: Path, stderr: int | None = None) -> None:
        self.log = log
        self.process: ForkedProcess | subprocess.Popen[bytes]
        with log.open("wb") as file:
            errors = file.fileno() if stderr is None else stderr
            if needs_its_own_start(environment):
                self.process = subprocess.Popen(
                    _COMMAND, env=environment, cwd=_SOURCES, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=errors,
                )  # fmt: skip
            else:
                self.process = shared().start(["run"], environment, stderr=errors)
        self.pid = self.process.pid

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under this name so far."""
        lines = [line for line in self.log.read_text().splitlines(True) if line.endswith("}\n")]
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if event.get("event") == name]

    def await_event(self, name: str, times: int = 1) -> dict[str, Any]:
        """The last event of this name, once there are so many."""
        until(
            lambda: len(self.events(name)) >= times or self.process.poll() is not None,
            f"event {name} of peer {self.pid}: {self.log.read_text()}",
        )
        found = self.events(name)
        assert len(found) >= times, f"the peer ended without {name}:\n{self.log.read_text()}"
        return found[-1]

    def joined(self, times: int = 1) -> UUID:
        """Its identity, once it has joined so many times."""
        return UUID(self.await_event("peer_joined", times)["peer_id"])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the peer alone, not to its workers."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """The end without a warning."""
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(DEADLINE)

    def terminate(self) -> int:
        """Let it drain; its exit code."""
        self.process.terminate()
        return self.wait()

    def catches(self, number: int) -> bool:
        """Whether the peer has a handler for this signal by now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
        return bool(int(mask, 16) >> (number - 1) & 1)

    def workers(self) -> list[int]:
        """The pids of its living workers."""
        return self._children(b"\0peers.worker\0")

    def fork_servers(self) -> list[int]:
        """The pids of those from which its workers are forked."""
        return self._children(b"\0peers.worker.fork_server\0")

    def orphan_killers(self) -> list[int]:
        """The pids of those that stand by to kill what its workers may leave behind."""
        return self._children(b"/kill_orphans.py\0")

    def _children(self, of_command: bytes) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z" and int(fields[1]) == self.pid and of_command in command:
                found.append(int(folder.name))
        return found


class Stage:
    """A database, an outside ledger, and the peers of one test."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.ledger = folder / "ledger"
        self.peers: list[PeerProcess] = []
        self._db = open_connection(url)
        self._db.execute(JOURNAL)

    @property
    def db(self) -> Connection:
        """A connection; a new one if the last was lost."""
        if self._db.broken or self._db.closed:
            self.reconnect()
        return self._db

    def reconnect(self) -> None:
        """After an outage, of which the connection learns only when it is used."""
        self._db.close()
        self._db = open_connection(self.url)

    def connect(self) -> Connection:
        """Another connection, for somebody else; close it."""
        return open_connection(self.url)

    def environment(
        self, app: str = "tests.e2e.app", slots: int | str = 1, **settings: object
    ) -> dict[str, str]:
        """That of a peer with these settings."""
        queues = slots if isinstance(slots, str) else f"default={slots}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PEERS_")}
        environment.pop("NOTIFY_SOCKET", None)
        chosen = {
            "database_url": self.url,
            "app": app,
            "queues": queues,
            "log_format": "json",
            **settings,
        }
        environment |= {f"PEERS_{name.upper()}": str(value) for name, value in chosen.items()}
        environment[ledger.LEDGER_VARIABLE] = str(self.ledger)
        return environment

    def launch(
        self, app: str = "tests.e2e.app", slots: int | str = 1, **settings: object
    ) -> PeerProcess:
        """Start a peer and does not wait for it."""
        return self.launch_in(self.environment(app, slots, **settings))

    def launch_in(self, environment: dict[str, str], stderr: int | None = None) -> PeerProcess:
        """Start a peer in this environment; `stderr`: where its log goes, if not to a file."""
        peer = PeerProcess(environment, self.folder / f"peer-{len(self.peers)}.log", stderr)
        self.peers.append(peer)
        return peer

    def peer(
        self, app: str = "tests.e2e.app", slots: int | str = 1, **settings: object
    ) -> PeerProcess:
        """Start a peer that has joined."""
        peer = self.launch(app, slots, **settings)
        peer.joined()
        return peer

    def submit(self, kind: str, args: dict[str, object] | None = None, **options: object) -> int:
        """Submit one task by SQL."""
        return submit(self.db, kind, args=args or {}, **options)

    def gate(self, name: str = "gate") -> str:
        """A closed gate, for a handler to wait at."""
        return str(self.folder / name)

    def open(self, gate: str) -> None:
        """Let the handlers at this gate go on."""
        Path(gate).touch()

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """What a query answers."""
        return rows(self.db, query, *arguments)

    def row(self, query: str, *arguments: object) -> dict[str, Any]:
        """The one row that a query answers."""
        [only] = self.rows(query, *arguments)
        return only

    def task(self, task_id: int) -> dict[str, Any]:
        """The row of a task."""
        return self.row("select * from peers.task where id = %s", task_id)

    def failures(self, task_id: int) -> list[dict[str, Any]]:
        """Its failed attempts, the first one first."""
        return self.rows("select * from peers.failure where task_id = %s order by id", task_id)

    def started(self, task_id: int) -> list[Entry]:
        """The starts of its handler."""
        return [e for e in ledger.read(self.ledger) if e.task_id == task_id and e.event == "start"]

    def until_started(self, *task_ids: int, times: int = 1) -> None:
        """Until each of their handlers has been started so often."""
        for task_id in task_ids:
            until(lambda: len(self.started(task_id)) >= times, f"start {times} of task {task_id}")  # noqa: B023

    def until_true(self, query: str, *arguments: object) -> None:
        """Until the query answers true; the database may be away meanwhile."""
        until(lambda: self._asks(query, *arguments), f"{query} {arguments}")

    def _asks(self, query: str, *arguments: object) -> bool:
        try:
            return bool(column(self.db, query, *arguments)[0])
        except psycopg.OperationalError:
            return False

    def until_state(self, state: str, *task_ids: int) -> None:
        """Until all these tasks are in this state."""
        ends = {"completed", "dead", "cancelled"}
        seen: list[dict[str, Any]] = []

        def arrived() -> bool:
            nonlocal seen
            with contextlib.suppress(psycopg.OperationalError):
                seen = self.rows(
                    "select id, state, attempt from peers.task where id = any (%s)", list(task_ids)
                )
            others = {task["state"] for task in seen} - {state}
            assert not others or others - ends, self._story(state, seen)
            return len(seen) == len(set(task_ids)) and not others

        until(arrived, f"state {state} of tasks {task_ids}")

    def _story(self, state: str, seen: list[dict[str, Any]]) -> str:
        others = [task for task in seen if task["state"] != state]
        return f"not {state}: {others}; {[self.failures(task['id']) for task in others]}"

    def until_ended(self) -> None:
        """Until no task is under way."""
        self.until_true(
            "select not exists (select from peers.task"
            " where state not in ('completed', 'dead', 'cancelled'))"
        )

    def audit(self, *, ended: bool = True) -> Audit:
        """What the database and the ledger say together."""
        return audit(self.db, self.ledger, ended=ended)

    def assert_clean(self) -> None:
        """Nothing lost, nothing twice, no child early; and the triggers' counters are right."""
        found = self.audit()
        assert found.clean, found
        assert self.rows("select * from peers.check()") == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that was started here."""
        for peer in self.peers:
            if peer.process.poll() is None:
                peer.kill()
        with contextlib.suppress(psycopg.Error):
            for row in self.rows("select liveness_lock as name from peers.peer"):
                liveness.remove(row["name"] or "")
        self._db.close()
