"""What limits cost, how soon a freed slot is used again, and how fair a fair limit is.

    python -m benchmarks.limits [keys snapshot cost free handover fairness] [--seconds 10]

keys: a claim of one task beside 10,000 keys that are full and 10 that are free. snapshot: claims of
32 tasks while a session holds an old snapshot. cost: a limit equal
to all slots beside no limit, with tasks of 10 ms and with no-op tasks. free: a kind without limits
while another kind has one. handover: 16 peers on 4 slots. fairness: Jain's index of the
slot-seconds of tenants whose tasks take 1 or 100 units, with more tenants than slots.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import UUID

from benchmarks.cpu import CpuMeter
from peers import current_task, embedded, task
from peers.database import schema
from peers.database.connection import Connection, connect
from peers.embedded import EmbeddedPostgres

_FULL: Final = 10_000
_FREE: Final = 10
_FOUND: Final = 200
_SLOTS: Final = 4
_PATIENCE: Final = 120.0
_LOOK_EVERY: Final = 0.01
_LEDGER: Final = "BENCH_LEDGER"


def _note(event: str, tenant: int = 0) -> None:
    file = os.open(os.environ[_LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{event} {current_task().id} {tenant} {time.monotonic()}\n".encode())
    os.close(file)


@task("bench.noop")
def noop() -> None:
    """Do nothing."""


@task("bench.sleep")
def sleep(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)


@task("bench.noted")
def noted(seconds: float, tenant: int = 0) -> None:
    """Note the start and the end of a sleep."""
    _note("start", tenant)
    time.sleep(seconds)
    _note("end", tenant)


class Bench:
    """A server, and a new database for each measurement."""

    def __init__(self, postgres: EmbeddedPostgres, seconds: float) -> None:
        self._postgres = postgres
        self._seconds = seconds
        self._number = 0
        self._url = ""

    @contextlib.contextmanager
    def _database(self) -> Iterator[Connection]:
        self._number += 1
        name = f"bench_{self._number}"
        with connect(self._postgres.url("postgres"), application_name="bench") as admin:
            admin.execute(f"create database {name}")
        self._url = self._postgres.url(name)
        with connect(self._url, application_name="bench") as connection:
            schema.migrate(connection)
            yield connection

    @contextlib.contextmanager
    def _peers(self, count: int, slots: int, ledger: str = "/dev/null") -> Iterator[list[int]]:
        command = [sys.executable, "-m", "peers", "run", "--app", "benchmarks.limits",
                   "--queues", f"default={slots}", "--log-level", "error",
                   "--database-url", self._url]  # fmt: skip
        environment = {**os.environ, _LEDGER: ledger}
        peers = [subprocess.Popen(command, env=environment) for _ in range(count)]
        try:
            yield [peer.pid for peer in peers]
        finally:
            for peer in peers:
                peer.send_signal(signal.SIGTERM)
            for peer in peers:
                peer.wait(_PATIENCE)

    def _until(self, connection: Connection, query: LiteralString, *values: object) -> None:
        give_up = time.monotonic() + _PATIENCE
        while connection.execute(query, values).fetchall() != [(True,)]:
            if time.monotonic() > give_up:
                raise TimeoutError(f"it is not true: {query}")
            time.sleep(_LOOK_EVERY)

    # ---------------------------------------------------------------------------------- the cases

    def keys(self) -> None:
        """Measure claims of one task beside keys that are full."""
        with self._database() as connection:
            _limit(connection, "bench.noop", key="n", max_running=1)
            peer = _join(connection)
            submit = (
                "insert into peers.task (kind, args)"
                " select 'bench.noop', jsonb_build_object('n', n) from generate_series(1, %s) n"
            )
            claim = "select task_ids from peers.claim_limited(%s, 'default', %s, %s)"
            connection.execute(submit, [_FULL])
            held = 0
            while held < _FULL:
                rows = connection.execute(claim, [peer, 1000, 1000]).fetchall()
                held += sum(len(row[0] or ()) for row in rows)
            connection.execute("update peers.limit set counts_tasks = false")
            connection.execute(submit, [_FULL + _FREE])
            connection.execute("vacuum analyze peers.ready_limited, peers.lease, peers.task")
            for tried in (False, True):
                self._claim_among_full_keys(connection, peer, tried=tried)

    def _claim_among_full_keys(self, connection: Connection, peer: UUID, *, tried: bool) -> None:
        """Claim one task at a time. tried: begin with the key whose task has ended."""
        claim = (
            "select token, task_ids, key from"
            " peers.claim_limited(%s, 'default', 1, 1, '{}', null, %s::bigint[])"
        )
        again = (
            "insert into peers.task (kind, args) select kind, args from peers.task where id = %s"
        )
        account = Path(f"/proc/{connection.info.backend_pid}/schedstat")
        times: list[float] = []
        cpu: list[float] = []
        tries: list[int] = []
        attempts = 0
        freed: list[int] = []
        while len(tries) < _FOUND:
            began, used = time.perf_counter(), int(account.read_text().split()[0])
            row = connection.execute(claim, [peer, freed if tried else []]).fetchall()[0]
            times.append(time.perf_counter() - began)
            cpu.append((int(account.read_text().split()[0]) - used) / 1e9)
            attempts += 1
            if row[0] is not None:
                tries.append(attempts)
                attempts, freed = 0, [row[2]]
                connection.execute(
                    "select * from peers.complete(%s, array[%s]::uuid[], %s, '[null]')",
                    [peer, *row[:2]],
                )
                connection.execute(again, [row[1][0]])
        (p50, p99), (cpu50, cpu99) = (
            (quantiles[49] * 1e3, quantiles[98] * 1e3)
            for quantiles in (statistics.quantiles(each, n=100) for each in (times, cpu))
        )
        print(f"keys: claim of one beside {_FULL} full keys and {_FREE} free ones,"
              f" {'first where a task has ended' if tried else 'at a random key'}:"
              f" p50 {p50:.1f} ms, p99 {p99:.1f} ms (goal < 10); CPU time of Postgres"
              f" p50 {cpu50:.1f} ms, p99 {cpu99:.1f} ms;"
              f" {statistics.mean(tries):.1f} claims until a free key", flush=True)  # fmt: skip

    def snapshot(self) -> None:
        """Measure claims of a peer that remembers its places, while rows stay dead."""
        for keys, backlog in ((1, 40_000), (1000, 100_000)):
            with self._database() as connection, connect(self._url, application_name="old") as old:
                _limit(connection, "bench.noop", key="n", max_running=1000)
                peer = _join(connection)
                connection.execute(
                    "insert into peers.task (kind, args) select 'bench.noop',"
                    " jsonb_build_object('n', n %% %s) from generate_series(1, %s) n",
                    [keys, backlog],
                )
                connection.execute("vacuum analyze peers.ready_limited, peers.lease, peers.task")
                with old.transaction():
                    old.execute("set transaction isolation level repeatable read")
                    old.execute("select from peers.limit").fetchall()
                    cpu = _claim_and_complete(connection, peer, backlog // 4)
            parts = [statistics.median(part) for part in (cpu[10:70], cpu[-60:])]
            print(f"snapshot: {keys} keys, claims of 32 while a session holds an old snapshot:"
                  f" CPU time of Postgres {parts[0]:.2f} ms at first, {parts[1]:.2f} ms after"
                  f" {32 * len(cpu)} tasks", flush=True)  # fmt: skip

    def cost(self) -> None:
        """Compare a limit equal to all slots with none."""
        for name, goal, kind, args, slots, tasks in (
            ("tasks of 10 ms", "goal >= 0.9", "bench.sleep", {"seconds": 0.01}, 8, 4000),
            ("no-op tasks", "no goal", "bench.noop", {}, 4, 60_000),
        ):
            results = defaultdict(list)
            for _ in range(2):
                for most in (None, slots):
                    results[most].append(self._throughput(kind, args, slots, tasks, most))
            none, limited = (
                [statistics.median(column) for column in zip(*results[most], strict=True)]
                for most in (None, slots)
            )
            print(f"cost: {name}, {slots} slots: {none[0]:.0f} -> {limited[0]:.0f} tasks/s"
                  f" ({limited[0] / none[0]:.2f} x, {goal}), CPU {none[1]:.0f} ->"
                  f" {limited[1]:.0f} us a task ({limited[1] / none[1]:.2f} x, goal <= 1.5;"
                  f" Postgres {none[2]:.0f} -> {limited[2]:.0f})", flush=True)  # fmt: skip

    def free(self) -> None:
        """Compare a kind without limits while another kind has one with no limit at all."""
        results = defaultdict(list)
        for _ in range(3):
            for other in (False, True):
                results[other].append(
                    self._throughput("bench.noop", {}, 4, 60_000, None, other_limit=other)
                )
        before, after = (
            [min(column) for column in list(zip(*results[each], strict=True))[1:]]
            for each in (False, True)
        )
        print(f"free: no-op tasks without a limit while another kind has one: CPU"
              f" {before[0]:.1f} -> {after[0]:.1f} us a task"
              f" ({after[0] / before[0]:.2f} x, goal <= 1.03)",
              flush=True)  # fmt: skip

    def _throughput(
        self, kind: str, args: dict[str, Any], slots: int, tasks: int, most: int | None,
        *, other_limit: bool = False,
    ) -> tuple[float, float, float]:  # fmt: skip
        """Return tasks a second, and microseconds of CPU time a task: in all, and of Postgres."""
        with self._database() as connection, self._peers(1, slots) as pids:
            if other_limit:
                _limit(connection, "bench.sleep", max_running=1)
            if most is not None:
                _limit(connection, kind, max_running=most)
            connection.execute("update peers.limit set counts_tasks = false")
            self._until(connection, "select count(*) = 1 from peers.peer_status where alive")
            submit = (
                "insert into peers.task (kind, args) select %s, %s::jsonb"
                " from generate_series(1, %s)"
            )
            done = "select bool_and(state = 'completed') from peers.task"
            connection.execute(submit, [kind, json.dumps(args), tasks // 10])  # warm
            self._until(connection, done)
            connection.execute("select peers.pause('default')")
            connection.execute(submit, [kind, json.dumps(args), tasks])
            connection.execute("vacuum analyze peers.task")
            assert self._postgres.pid is not None
            meter = CpuMeter(self._postgres.pid, pids)
            meter.begin()
            began = time.monotonic()
            connection.execute("select peers.resume('default')")
            give_up = began + _PATIENCE
            left = (
                "select exists (select from peers.ready union all select from peers.ready_limited)"
            )
            while connection.execute(left).fetchall() == [(True,)] and time.monotonic() < give_up:
                time.sleep(0.05)
                meter.sample()
            self._until(connection, done)
            seconds = time.monotonic() - began
            used = meter.end()
        return (
            tasks / seconds,
            (used.postgres + used.client) / tasks / 1e3,
            used.postgres / tasks / 1e3,
        )

    def handover(self) -> None:
        """Measure from the end of a task until the next one starts in its slot."""
        for peers, shortest, longest in ((16, 0.1, 0.3), (16, 0.2, 0.2), (4, 0.1, 0.3)):
            gaps, cpu = self._handovers(peers, shortest, longest)
            quantiles = statistics.quantiles(gaps, n=100)
            length = f"{shortest * 1e3:.0f} to {longest * 1e3:.0f}"
            print(f"handover: {peers} peers, {_SLOTS} slots, {len(gaps)} tasks of {length} ms:"
                  f" a freed slot is used again after p50 {quantiles[49] * 1e3:.1f} ms,"
                  f" p99 {quantiles[98] * 1e3:.1f} ms (goal < 5);"
                  f" CPU {cpu[0]:.1f} ms a task in Postgres, {cpu[1]:.1f} in the peers",
                  flush=True)  # fmt: skip

    def _handovers(
        self, peers: int, shortest: float, longest: float
    ) -> tuple[list[float], tuple[float, float]]:
        """Return the seconds until slots were used again, and milliseconds of CPU time a task."""
        with self._database() as connection, tempfile.TemporaryDirectory() as folder:
            _limit(connection, "bench.noted", max_running=_SLOTS)
            connection.execute("update peers.limit set counts_tasks = false")
            ledger = Path(folder, "ledger")
            tasks = int(self._seconds * _SLOTS / 0.25)
            submit = (
                "insert into peers.task (kind, args) select 'bench.noted',"
                " jsonb_build_object('seconds', %s + random() * %s) from generate_series(1, %s)"
            )
            with self._peers(peers, 1, str(ledger)) as pids:
                self._until(
                    connection, "select count(*) = %s from peers.peer_status where alive", peers
                )
                connection.execute(submit, [shortest, longest - shortest, 2 * peers])  # warm
                self._until(connection, "select bool_and(state = 'completed') from peers.task")
                ledger.write_text("")
                assert self._postgres.pid is not None
                meter = CpuMeter(self._postgres.pid, pids)
                meter.begin()
                connection.execute(submit, [shortest, longest - shortest, tasks])
                self._until(connection, "select bool_and(state = 'completed') from peers.task")
                used = meter.end()
            events = _read(ledger)
        return _gaps(events, tasks), (used.postgres / tasks / 1e6, used.client / tasks / 1e6)

    def fairness(self) -> None:
        """Measure the slot-seconds of tenants with long and with short tasks."""
        slots, unit, tenants = 8, 0.01, 16
        with self._database() as connection, tempfile.TemporaryDirectory() as folder:
            _limit(connection, "bench.noted", key="tenant", fair=True)
            ledger = Path(folder, "ledger")
            for tenant in range(tenants):
                long = tenant % 2 == 0
                backlog = 10_000 if tenant // 2 % 2 == 0 else 1 + int(
                    2 * self._seconds * slots / tenants / (100 * unit if long else unit)
                )  # fmt: skip
                connection.execute(
                    "insert into peers.task (kind, args) select 'bench.noted',"
                    " jsonb_build_object('seconds', %s::float8, 'tenant', %s::integer)"
                    " from generate_series(1, %s)",
                    [100 * unit if long else unit, tenant, backlog],
                )
            with self._peers(4, slots // 4, str(ledger)):
                time.sleep(self._seconds + 5)
            used: dict[int, float] = defaultdict(float)
            events = _read(ledger)
            begin, end = events[0][3] + 3, events[-1][3]
            ends = {number: at for event, number, _, at in events if event == "end"}
            for event, number, tenant, at in events:
                if event == "start":
                    used[tenant] += max(0.0, min(ends.get(number, end), end) - max(at, begin))
        shares = [used[tenant] for tenant in range(tenants)]
        jain = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
        print(f"fairness: {tenants} tenants on {slots} slots, tasks 1:100: Jain {jain:.3f}"
              f" (goal >= 0.95), slot-seconds {min(shares):.2f} to {max(shares):.2f}",
              flush=True)  # fmt: skip


def _join(connection: Connection) -> UUID:
    [(peer,)] = connection.execute(
        "select peers.join('h', 1, '{\"default\": 1000}', '[{\"kind\": \"bench.noop\"}]', '1 h', 1)"
    ).fetchall()
    joined: UUID = peer
    return joined


def _claim_and_complete(connection: Connection, peer: UUID, tasks: int) -> list[float]:
    """Work off so many tasks. Return the milliseconds of CPU time of each claim."""
    claim = (
        "select token, task_ids, limited_resume::text from peers.claim_limited("
        "%s, 'default', 32, 32, limited_resume => %s::peers.limited_resume)"
    )
    complete = "select * from peers.complete(%s, array[%s]::uuid[], %s, %s)"
    account = Path(f"/proc/{connection.info.backend_pid}/schedstat")
    cpu: list[float] = []
    resume = None
    while 32 * len(cpu) < tasks:
        used = int(account.read_text().split()[0])
        *leases, (_, _, resume) = connection.execute(claim, [peer, resume]).fetchall()
        cpu.append((int(account.read_text().split()[0]) - used) / 1e6)
        for token, task_ids, _ in leases:
            results = json.dumps([None] * len(task_ids))
            connection.execute(complete, [peer, token, task_ids, results])
    return cpu


def _limit(connection: Connection, kind: str, **columns: object) -> None:
    names = ["name", "kind", *columns]
    connection.execute(
        f"insert into peers.limit ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
        [kind, kind, *columns.values()],
    )


def _gaps(events: list[tuple[str, int, int, float]], tasks: int) -> list[float]:
    """Return the seconds from each end until the start that takes its slot."""
    free: list[float] = []
    gaps = []
    running = started = 0
    for event, _, _, at in events:
        if event == "end":
            running -= 1
            free.append(at)
        else:
            running += 1
            started += 1
            assert running <= _SLOTS
            if free and started <= tasks - _SLOTS:
                gaps.append(at - free.pop(0))
    return gaps


def _read(ledger: Path) -> list[tuple[str, int, int, float]]:
    lines = (line.split() for line in ledger.read_text().splitlines())
    found = [(event, int(number), int(tenant), float(at)) for event, number, tenant, at in lines]
    return sorted(found, key=lambda line: line[3])


def main() -> None:
    """Measure the chosen cases, or all."""
    cases = ("keys", "snapshot", "cost", "free", "handover", "fairness")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[*cases, []], default=list(cases))
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    settings = {"max_connections": "200"}
    with embedded.throwaway(settings=settings) as postgres:
        print(f"Postgres {postgres.server_version}, Linux {platform.release()},"
              f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
        bench = Bench(postgres, options.seconds)
        for case in options.cases:
            getattr(bench, case)()


if __name__ == "__main__":
    main()
