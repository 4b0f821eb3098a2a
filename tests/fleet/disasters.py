"""What befalls a fleet: each function does one thing to it and returns a row of the table."""

from __future__ import annotations

import time
from typing import Final

from tests.fleet.fleet import PEERS, Fleet
from tests.fleet.report import Finding
from tests.fleet.watch import LEASE, RECLAIMED_WITHIN, START, Changes, timed, until

_AT_ONCE: Final = 3.0
_WATCHDOG: Final = 60.0
_OUTAGE: Final = 60.0
_NETWORK_CUT: Final = 75.0
"""Seconds: longer than the watchdog has patience."""
_HOG_MAY_TAKE: Final = 300 << 20


def kill_main_process(fleet: Fleet) -> Finding:
    """Kill the main process of one peer, as the kernel would."""
    finding = Finding("kill -9 of a main process", "its work is reclaimed at once; it is restarted")
    host, unit = fleet.hosts[0], PEERS[0]
    changes = Changes(fleet)
    attempts = fleet.busy(host, unit)
    with timed() as seconds:
        host.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
        fleet.await_ended(attempts, RECLAIMED_WITHIN)
        finding.at_most(f"{len(attempts)} tasks reclaimed after", seconds(), _AT_ONCE)
        until(changes.restarts, "a restart", START)
        fleet.await_all_alive(START)
        finding.at_most("restarted and ready after", seconds(), START)
    changes.note_restarts(finding, "host1 peers@1")
    changes.note_lost(finding, len(attempts))
    return finding


def hang_peer(fleet: Fleet) -> Finding:
    """Stop the main process of one peer without ending it."""
    finding = Finding(
        "a hung peer (SIGSTOP)",
        "its work is reclaimed after the lease (30 s); the watchdog (60 s) ends it",
    )
    host, unit = fleet.hosts[1], PEERS[1]
    changes = Changes(fleet)
    attempts = fleet.busy(host, unit)
    with timed() as seconds:
        host.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", unit)
        fleet.await_ended(attempts, 2 * LEASE)
        finding.at_most(f"{len(attempts)} tasks reclaimed after", seconds(), RECLAIMED_WITHIN)
        until(changes.restarts, "the watchdog", 2 * _WATCHDOG)
        fleet.await_all_alive(START)
        finding.at_most("restarted and ready after", seconds(), _WATCHDOG + START)
    changes.note_restarts(finding, "host2 peers@2")
    changes.note_lost(finding, len(attempts))
    said = host.run("journalctl", "--no-pager", f"--unit={unit}")
    finding.note("journal: Watchdog timeout", "Watchdog timeout" in said)
    return finding


def out_of_memory(fleet: Fleet) -> Finding:
    """Let a handler take more memory than its unit may have."""
    finding = Finding(
        "out of memory (MemoryMax=)", "only the task that took it fails; nobody restarts"
    )
    host, unit = fleet.hosts[0], PEERS[0]
    changes = Changes(fleet)
    limit = int(fleet.show(host, unit, "MemoryCurrent")) + _HOG_MAY_TAKE
    host.run("systemctl", "set-property", "--runtime", unit, f"MemoryMax={limit}")
    task_id = fleet.submitter.submit("hog", queue="hogs")
    with timed() as seconds:
        dead = "select 1 from peers.task where id = %s and state = 'dead'"
        until(lambda: fleet.rows(dead, task_id), "the end of the hog", LEASE)
    host.run("systemctl", "set-property", "--runtime", unit, "MemoryMax=infinity")
    signal = fleet.value("select exit_signal from peers.failure where task_id = %s", task_id)
    finding.same(f"dead after {seconds():.1f} s, by", signal, "SIGKILL")
    finding.same("failures", sum(changes.failures().values()), 1)
    changes.note_restarts(finding)
    changes.note_same_processes(finding)
    return finding


def outage(fleet: Fleet) -> Finding:
    """Stop Postgres for a minute."""
    finding = Finding("a minute without Postgres", "nobody restarts, nothing fails, work goes on")
    changes = Changes(fleet)
    for host in fleet.hosts:
        fleet.busy(host, *PEERS)
    with timed() as seconds:
        fleet.db.run("systemctl", "stop", "postgresql@15-main")
        time.sleep(_OUTAGE)  # the time itself is what is tested
        fleet.db.run("systemctl", "start", "postgresql@15-main")
    finding.note(f"away for {seconds():.0f} s")
    until(fleet.completed, "the database", START)
    before = fleet.completed()
    flows = until(lambda: fleet.completed() > before, "a completed task", LEASE)
    finding.at_most("work flows again after", flows, START)
    finding.at_most("all peers alive after further", fleet.await_all_alive(LEASE), LEASE)
    changes.note_restarts(finding)
    changes.note_same_processes(finding)
    changes.note_no_failure(finding)
    return finding


def cut_network(fleet: Fleet) -> Finding:
    """Cut one host from the network, so that its packets vanish."""
    finding = Finding(
        f"a host without network for {_NETWORK_CUT:.0f} s",
        "its work is reclaimed after the lease (30 s); nobody restarts",
    )
    host = fleet.hosts[1]
    changes = Changes(fleet)
    attempts = fleet.busy(host, *PEERS)
    with timed() as seconds:
        host.connect(connected=False)
        fleet.await_ended(attempts, 2 * LEASE)
        finding.at_most(f"{len(attempts)} tasks reclaimed after", seconds(), RECLAIMED_WITHIN)
        time.sleep(_NETWORK_CUT - seconds())  # the time itself is what is tested
        host.connect(connected=True)
    finding.at_most("its peers are back after", fleet.await_all_alive(LEASE), LEASE)
    changes.note_restarts(finding)
    changes.note_same_processes(finding)
    changes.note_lost(finding, len(attempts))
    return finding


def power_cut(fleet: Fleet) -> Finding:
    """Cut the power of a host, and switch it on again when its work has been reclaimed."""
    finding = Finding(
        "a host without power, and back",
        "its work is reclaimed after the lease (30 s); its peers start at boot",
    )
    host = fleet.hosts[1]
    changes = Changes(fleet)
    attempts = fleet.busy(host, *PEERS)
    with timed() as seconds:
        host.cut_power()
        fleet.await_ended(attempts, 2 * LEASE)
        finding.at_most(f"{len(attempts)} tasks reclaimed after", seconds(), RECLAIMED_WITHIN)
    with timed() as seconds:
        host.power_on()
        host.await_boot()
        fleet.await_all_alive(LEASE)
    finding.at_most("power on to both peers alive:", seconds(), LEASE)
    changes.note_lost(finding, len(attempts))
    return finding
