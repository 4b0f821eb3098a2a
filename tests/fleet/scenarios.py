"""What happens to a fleet: each function does one thing to it and returns a row of the table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from tests.fleet.fleet import PEERS, Fleet, timed, until
from tests.fleet.machines import Machine
from tests.fleet.report import Finding

_LEASE: Final = 30.0
_WATCHDOG: Final = 60.0
_START: Final = 20.0
"""Seconds within which a peer starts on a busy machine of two cores."""
_OUTAGE: Final = 60.0
_EXPOSURE_MAX: Final = 2.5
_MEGABYTE: Final = 1 << 20
_CONFIG_ERROR: Final = 78
_WARNING: Final = 4


class Scenario(NamedTuple):
    """One row, and the longest pause without a completed task that it allows."""

    run: Callable[[Fleet], Finding]
    pause_max: float | None
    """None: no work flows yet, or the pause is the point."""


def migrate(fleet: Fleet) -> Finding:
    """Apply the migrations with the oneshot unit, twice."""
    finding = Finding("peers-migrate", "applies the schema; ends with 0; again: changes nothing")
    host = fleet.hosts[0]
    with timed() as seconds:
        host.run("systemctl", "start", "peers-migrate")
    finding.note(f"{seconds():.1f} s")
    with timed() as seconds:
        host.run("systemctl", "start", "peers-migrate")
    finding.note(f"again: {seconds():.1f} s")
    finding.same("result", fleet.show(host, "peers-migrate", "Result"), "success")
    owner = fleet.value("select nspowner::regrole::text from pg_namespace where nspname = 'peers'")
    finding.same("as the role of its own credential", owner, "shop_owner")
    return finding


def start(fleet: Fleet) -> Finding:
    """Enable and start two peers on each host."""
    finding = Finding("start", f"four peers report ready within {_START:.0f} s")
    fleet.watch_tasks()
    with timed() as seconds:
        _on_all(fleet.hosts, "systemctl", "enable", "--now", "--quiet", "peers.target", *PEERS)
    finding.at_most("systemctl returned after", seconds(), _START)
    finding.same("alive in the database", len(fleet.alive()), len(PEERS) * len(fleet.hosts))
    fleet.submitter.__enter__()
    finding.note(f"first task done after {until(fleet.completed, 'a task', 10):.1f} s")
    return finding


def security(fleet: Fleet) -> Finding:
    """Ask the booted host how exposed the units are."""
    finding = Finding("systemd-analyze security", f"{_EXPOSURE_MAX} or better for each service")
    for unit in ("peers@1.service", "peers-migrate.service"):
        said = fleet.hosts[0].run("systemd-analyze", "security", "--no-pager", unit)
        found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
        score = float(found[1]) if found else 10.0
        finding.note(f"{unit}: {score}", score <= _EXPOSURE_MAX)
    return finding


def stop_and_start(fleet: Fleet) -> Finding:
    """Stop one busy peer, and start it again."""
    finding = Finding("stop, start", "running tasks finish; no attempt is lost; exit code 0")
    host, unit = fleet.hosts[0], PEERS[0]
    failures = _Failures(fleet)
    tokens = fleet.busy(host, unit)
    with timed() as seconds:
        host.run("systemctl", "stop", unit)
    finding.at_most(f"{len(tokens)} running tasks drained in", seconds(), _LEASE)
    finding.same("exit code", fleet.show(host, unit, "ExecMainStatus"), "0")
    finding.same("completed under their first token", _completed(fleet, tokens), len(tokens))
    with timed() as seconds:
        host.run("systemctl", "start", unit)
    finding.at_most("started in", seconds(), _START)
    finding.same("attempts lost", failures.new(), {})
    return finding


def restart_all(fleet: Fleet) -> Finding:
    """Restart all peers of a host at once."""
    finding = Finding("restart peers.target", "the same for all peers of a host at once")
    host = fleet.hosts[1]
    failures = _Failures(fleet)
    tokens = fleet.busy(host, *PEERS)
    with timed() as seconds:
        host.run("systemctl", "restart", "peers.target")
    finding.at_most(f"{len(tokens)} running tasks drained and peers ready in", seconds(), _LEASE)
    finding.same("completed under their first token", _completed(fleet, tokens), len(tokens))
    finding.same("attempts lost", failures.new(), {})
    return finding


def kill_main_process(fleet: Fleet) -> Finding:
    """Kill the main process of one peer, as the kernel would."""
    finding = Finding("kill -9 of a main process", "its work is reclaimed at once; it is restarted")
    host, unit = fleet.hosts[0], PEERS[0]
    failures, restarts = _Failures(fleet), fleet.restarts()
    tokens = fleet.busy(host, unit)
    host.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
    finding.at_most(f"{len(tokens)} tasks reclaimed after", fleet.await_ended(tokens, _LEASE), 3.0)
    finding.at_most("all peers alive again after further", fleet.await_alive(4, _START), _START)
    finding.same("restarts", _changed(restarts, fleet.restarts()), {f"{host.name} {unit}": 1})
    finding.note(f"failures: {failures.new()}", failures.only("lost", len(tokens)))
    return finding


def hang_peer(fleet: Fleet) -> Finding:
    """Stop the main process of one peer without ending it."""
    finding = Finding(
        "a hung peer (SIGSTOP)",
        f"its work is reclaimed after the lease ({_LEASE:.0f} s + 2); the watchdog "
        f"({_WATCHDOG:.0f} s) ends it; it is restarted",
    )
    host, unit = fleet.hosts[1], PEERS[1]
    failures, restarts = _Failures(fleet), fleet.restarts()
    tokens = fleet.busy(host, unit)
    with timed() as seconds:
        host.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", unit)
        fleet.await_ended(tokens, 2 * _LEASE)
        finding.at_most(f"{len(tokens)} tasks reclaimed after", seconds(), _LEASE + 2.5)
        until(lambda: fleet.restarts() != restarts, "the watchdog", 2 * _WATCHDOG)
        finding.at_most("restarted after", seconds(), _WATCHDOG + 10)
    finding.at_most("all peers alive again after further", fleet.await_alive(4, _START), _START)
    finding.same("restarts", _changed(restarts, fleet.restarts()), {f"{host.name} {unit}": 1})
    finding.note(f"failures: {failures.new()}", failures.only("lost", len(tokens)))
    said = host.run("journalctl", "--no-pager", f"--unit={unit}")
    finding.note("journal: Watchdog timeout", "Watchdog timeout" in said)
    return finding


def out_of_memory(fleet: Fleet) -> Finding:
    """Let a handler take more memory than its unit may have."""
    finding = Finding(
        "out of memory (MemoryMax=)", "only the task that took it fails; nobody restarts"
    )
    host, unit = fleet.hosts[0], PEERS[0]
    failures, restarts, pids = _Failures(fleet), fleet.restarts(), fleet.pids()
    used = int(fleet.show(host, unit, "MemoryCurrent"))
    limit = f"MemoryMax={used + 300 * _MEGABYTE}"
    host.run("systemctl", "set-property", "--runtime", unit, limit)
    task_id = fleet.submitter.submit("hog", queue="hogs")
    ended = "select 1 from peers.task where id = %s and state in ('completed', 'dead')"
    with timed() as seconds:
        until(lambda: fleet.rows(ended, task_id), "the end of the hog", 30.0)
    host.run("systemctl", "set-property", "--runtime", unit, "MemoryMax=infinity")
    [failure] = fleet.rows("select * from peers.failure where task_id = %s", task_id)
    finding.note(f"the task died after {seconds():.1f} s of {failure['exit_signal']}",
                 failure["exit_signal"] == "SIGKILL")  # fmt: skip
    finding.same("failures", sum(failures.new().values()), 1)
    finding.same("restarts", _changed(restarts, fleet.restarts()), {})
    finding.same("main processes replaced", _changed(pids, fleet.pids()), {})
    return finding


def outage(fleet: Fleet) -> Finding:
    """Stop Postgres for a minute."""
    finding = Finding("a minute without Postgres", "nobody restarts, nothing fails, work goes on")
    failures, restarts, pids = _Failures(fleet), fleet.restarts(), fleet.pids()
    for host in fleet.hosts:
        fleet.busy(host, *PEERS)
    with timed() as seconds:
        fleet.db.run("systemctl", "stop", "postgresql@15-main")
        fleet.db.run("sleep", str(_OUTAGE))  # the duration is the point
        fleet.db.run("systemctl", "start", "postgresql@15-main")
    finding.note(f"away for {seconds():.0f} s")
    done = until_value(fleet)
    with timed() as seconds:
        until(lambda: fleet.completed() > done, "a completed task", _LEASE)
    finding.at_most("work flows after", seconds(), 15.0)
    fleet.await_alive(4, _LEASE)
    finding.same("restarts", _changed(restarts, fleet.restarts()), {})
    finding.same("main processes replaced", _changed(pids, fleet.pids()), {})
    finding.same("failures", failures.new(), {})
    return finding


def until_value(fleet: Fleet) -> int:
    """Return how many tasks are completed, as soon as the database says so."""
    until(fleet.completed, "the database", _LEASE)
    return fleet.completed()


def power_cut(fleet: Fleet) -> Finding:
    """Cut the power of a host, and switch it on again when its work has been reclaimed."""
    finding = Finding(
        "a host without power, and back",
        f"its work is reclaimed after the lease ({_LEASE:.0f} s + 2); its peers start at boot",
    )
    host = fleet.hosts[1]
    failures = _Failures(fleet)
    tokens = fleet.busy(host, *PEERS)
    with timed() as seconds:
        host.cut_power()
        fleet.await_ended(tokens, 2 * _LEASE)
        finding.at_most(f"{len(tokens)} tasks reclaimed after", seconds(), _LEASE + 2.5)
    with timed() as seconds:
        host.power_on()
        host.await_boot()
        fleet.await_alive(4, _LEASE)
    finding.at_most("power on to both peers alive", seconds(), _LEASE)
    finding.note(f"failures: {failures.new()}", failures.only("lost", len(tokens)))
    return finding


def rolling_upgrade(fleet: Fleet) -> Finding:
    """Install the new release beside the old one, and restart one peer after the other."""
    old, new = fleet.wheels.old, fleet.wheels.new
    finding = Finding("rolling upgrade", f"{old} and {new} side by side; no attempt is lost")
    failures = _Failures(fleet)
    mixed = []
    with timed() as seconds:
        for host in fleet.hosts:
            fleet.install(host, "new")
            host.run("systemctl", "start", "peers-migrate")
            for unit in PEERS:
                fleet.busy(host, unit)
                host.run("systemctl", "restart", unit)
                mixed.append("+".join(str(number) for number in _releases(fleet)))
    finding.note(f"{seconds():.0f} s")
    finding.same("old+new peers", ", ".join(mixed), "3+1, 2+2, 1+3, 0+4")
    said = fleet.hosts[0].run("/opt/peers/bin/peers", "--version")
    finding.note(said.split(",")[0], new in said)
    finding.same("attempts lost", failures.new(), {})
    return finding


def wrong_configuration(fleet: Fleet) -> Finding:
    """Start a peer with a setting that cannot be read."""
    finding = Finding("a wrong setting", "exit code 78; not restarted; the journal says what to do")
    host, unit = fleet.hosts[0], "peers@9"
    host.write("/etc/peers/peers-9.env", "PEERS_LEASE_TIMEOUT=soon\n")
    code, _ = host.try_to("systemctl", "start", unit)
    finding.note("systemctl start fails", code != 0)
    finding.same("exit code", fleet.show(host, unit, "ExecMainStatus"), str(_CONFIG_ERROR))
    finding.same("state", fleet.show(host, unit, "SubState"), "failed")
    finding.same("restarts", fleet.show(host, unit, "NRestarts"), "0")
    said = host.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")
    finding.note("the journal names lease_timeout", 'lease_timeout is "soon"' in said)
    return finding


def journal(fleet: Fleet) -> Finding:
    """Read the journal of a host as an operator does."""
    finding = Finding(
        "journalctl -u 'peers@*'", "priorities; the task that died; no unexplained error"
    )
    found = []
    for host in fleet.hosts:
        lines = host.run("journalctl", "--no-pager", "--output=json", "--unit=peers@*")
        found += [json.loads(line) for line in lines.splitlines()]
    own = [entry for entry in found if entry.get("_SYSTEMD_UNIT", "").startswith("peers@")]
    priorities = Counter(int(entry["PRIORITY"]) for entry in own)
    finding.note(
        f"lines by priority: {dict(sorted(priorities.items()))}", {4, 6} <= set(priorities)
    )
    loud = [str(entry["MESSAGE"]) for entry in own if int(entry["PRIORITY"]) <= _WARNING]
    for what, pattern in _JOURNAL.items():
        finding.note(what, any(re.search(pattern, line) for line in loud))
    hog = fleet.value("select id from peers.task where kind = 'hog'")
    finding.note(f"task {hog} by its id", any(re.search(rf"\b{hog}\b", line) for line in loud))
    bugs = [line for line in loud if "bug in Peers" in line or "Traceback" in line]
    finding.same("tracebacks and bugs", bugs, [])
    return finding


_JOURNAL: Final = {
    "a worker that was killed": r"SIGKILL",
    "tasks that were reclaimed": r"reclaim|lost",
    "a database that was away": r"database",
    "workers that were killed before the lease ended": r"fence|kill",
}


def stop_all(fleet: Fleet) -> Finding:
    """Stop the whole fleet while it works."""
    finding = Finding("stop peers.target everywhere", "every peer drains and ends with 0")
    failures = _Failures(fleet)
    for host in fleet.hosts:
        fleet.busy(host, *PEERS)
    with timed() as seconds:
        _on_all(fleet.hosts, "systemctl", "stop", "peers.target")
    finding.at_most("stopped in", seconds(), _LEASE)
    codes = {fleet.show(host, unit, "Result") for host in fleet.hosts for unit in PEERS}
    finding.same("results", codes, {"success"})
    finding.same("alive in the database", fleet.alive(), [])
    _on_all(fleet.hosts, "systemctl", "start", "peers.target", *PEERS)
    finding.same("attempts lost", failures.new(), {})
    return finding


SCENARIOS: Final = (
    Scenario(migrate, None),
    Scenario(start, None),
    Scenario(security, 5.0),
    Scenario(stop_and_start, 5.0),
    Scenario(restart_all, 8.0),
    Scenario(kill_main_process, 5.0),
    Scenario(out_of_memory, 5.0),
    Scenario(wrong_configuration, 5.0),
    Scenario(hang_peer, 5.0),
    Scenario(power_cut, 5.0),
    Scenario(outage, None),
    Scenario(rolling_upgrade, 8.0),
    Scenario(stop_all, None),
    Scenario(journal, None),
)


class _Failures:
    """The failures since this object was made."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last = fleet.value("select coalesce(max(id), 0) from peers.failure")

    def new(self) -> dict[str, int]:
        """Return how many there are of each type."""
        query = "select error_type, count(*) as n from peers.failure where id > %s group by 1"
        return {row["error_type"]: row["n"] for row in self._fleet.rows(query, self._last)}

    def only(self, error_type: str, at_most: int) -> bool:
        """Return whether all are of this type, and not more than so many."""
        found = self.new()
        return set(found) <= {error_type} and sum(found.values()) <= at_most


def _on_all(hosts: list[Machine], *command: str) -> None:
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda host: host.run(*command), hosts))


def _changed(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - number for name, number in before.items() if after[name] != number}


def _completed(fleet: Fleet, tokens: list[str]) -> int:
    query = "select count(*) from peers.task where state = 'completed' and token = any (%s)"
    return int(fleet.value(query, tokens))


def _releases(fleet: Fleet) -> tuple[int, int]:
    """Return how many peers run the old release and how many the new one."""
    programs = [
        host.run("cat", f"/proc/{fleet.main_pid(host, unit)}/cmdline")
        for host in fleet.hosts
        for unit in PEERS
    ]
    new = sum("/opt/peers-new/" in program for program in programs)
    return len(programs) - new, new
