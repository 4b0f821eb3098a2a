"""What an operator does to a fleet: each function does one thing and returns a row of the table."""

from __future__ import annotations

import re
from typing import Final

from tests.fleet.fleet import PEERS, Fleet
from tests.fleet.provision import install
from tests.fleet.report import Finding
from tests.fleet.watch import LEASE, START, Changes, on_all, timed, until

_EXPOSURE_MAX: Final = 2.5
_CONFIG_ERROR: Final = "78"
_SHORT_STOP: Final = "[Service]\nTimeoutStopSec=1s\n"
_LONG_LEASE: Final = "PEERS_LEASE_TIMEOUT=10m\nPEERS_QUEUES=quiet=1\n"


def migrate(fleet: Fleet) -> Finding:
    """Apply the migrations with the oneshot unit, twice."""
    finding = Finding("peers-migrate", "applies the schema; again: changes no table")
    host = fleet.hosts[0]
    for what in ("schema applied in", "again:"):
        with timed() as seconds:
            host.run("systemctl", "start", "peers-migrate")
        finding.at_most(what, seconds(), START)
    said = host.run("journalctl", "--no-pager", "--output=cat", "--unit=peers-migrate")
    finding.note("the second time: no new tables", "applied: no new tables" in said)
    owner = fleet.value("select nspowner::regrole::text from pg_namespace where nspname = 'peers'")
    finding.same("by the role of its own credential", owner, "shop_owner")
    fleet.watch_tasks()
    return finding


def start(fleet: Fleet) -> Finding:
    """Enable and start two peers on each host."""
    finding = Finding("start", f"four peers report ready within {START:.0f} s")
    with timed() as seconds:
        on_all(fleet.hosts, "systemctl", "enable", "--now", "--quiet", "peers.target", *PEERS)
    finding.at_most("systemctl returned after", seconds(), START)
    finding.same("alive in the database", len(fleet.alive()), len(fleet.pids()))
    fleet.submitter.start()
    finding.at_most("first task done after", until(fleet.completed, "a task", START), START)
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


def handlers_under_hardening(fleet: Fleet) -> Finding:
    """Let a handler try what handlers need, and what they must not do."""
    finding = Finding("a handler under the hardening", "may do what handlers need, and no more")
    task_id = fleet.submitter.submit("probe", queue="hogs")
    state = "select state from peers.task where id = %s and state in ('completed', 'dead')"
    until(lambda: fleet.rows(state, task_id), "the probe", START)
    result = fleet.value("select result from peers.task where id = %s", task_id)
    for what, found in result["may"].items():
        finding.note(what, found == "yes") if found == "yes" else finding.note(
            f"{what}: {found}", False
        )
    for what, found in result["must not"].items():
        refused = found != "yes"
        finding.note(f"not {what}" if refused else f"may {what}", refused)
    return finding


def stop_and_start(fleet: Fleet) -> Finding:
    """Stop one busy peer, and start it again."""
    finding = Finding("stop, start", "running tasks finish; no attempt is lost; exit code 0")
    host, unit = fleet.hosts[0], PEERS[0]
    changes = Changes(fleet)
    attempts = fleet.started(fleet.busy(host, unit))
    with timed() as seconds:
        host.run("systemctl", "stop", unit)
    finding.at_most(f"{len(attempts)} running tasks drained in", seconds(), LEASE)
    finding.same("exit code", fleet.show(host, unit, "ExecMainStatus"), "0")
    finding.same("completed in their attempt", fleet.count(attempts, "completed"), len(attempts))
    with timed() as seconds:
        host.run("systemctl", "start", unit)
    finding.at_most("started in", seconds(), START)
    changes.note_no_failure(finding)
    return finding


def restart_target(fleet: Fleet) -> Finding:
    """Restart all peers of a host at once."""
    finding = Finding("restart peers.target", "the same for all peers of a host at once")
    host = fleet.hosts[1]
    changes = Changes(fleet)
    attempts = fleet.started(fleet.busy(host, *PEERS))
    with timed() as seconds:
        host.run("systemctl", "restart", "peers.target")
    finding.at_most(
        f"{len(attempts)} running tasks drained, peers ready in", seconds(), LEASE + START
    )
    finding.same("completed in their attempt", fleet.count(attempts, "completed"), len(attempts))
    changes.note_no_failure(finding)
    return finding


def reboot(fleet: Fleet) -> Finding:
    """Shut a busy host down, and switch it on again."""
    finding = Finding("a host shut down, and back", "its peers drain first, and start at boot")
    host = fleet.hosts[1]
    changes = Changes(fleet)
    attempts = fleet.started(fleet.busy(host, *PEERS))
    with timed() as seconds:
        host.shut_down()
    finding.at_most(f"{len(attempts)} running tasks drained, host off in", seconds(), LEASE)
    finding.same("completed in their attempt", fleet.count(attempts, "completed"), len(attempts))
    with timed() as seconds:
        host.power_on()
        host.await_boot()
        fleet.await_all_alive(LEASE)
    finding.at_most("power on to both peers alive:", seconds(), LEASE)
    changes.note_no_failure(finding)
    return finding


def long_drain(fleet: Fleet) -> Finding:
    """Stop a peer whose drain takes longer than TimeoutStopSec of its unit."""
    finding = Finding(
        "a drain longer than TimeoutStopSec", "systemd waits for it; no attempt is lost"
    )
    host, unit = fleet.hosts[1], PEERS[0]
    drop_in = f"/etc/systemd/system/{unit}.service.d/short.conf"
    changes = Changes(fleet)
    host.write(drop_in, _SHORT_STOP)
    host.run("systemctl", "daemon-reload")
    attempts = fleet.started(fleet.busy(host, unit))
    with timed() as seconds:
        host.run("systemctl", "stop", unit)
    finding.note(f"TimeoutStopSec=1s; drained in {seconds():.1f} s", seconds() > 1.5)
    finding.same("result", fleet.show(host, unit, "Result"), "success")
    finding.same("completed in their attempt", fleet.count(attempts, "completed"), len(attempts))
    host.remove(drop_in)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", unit)
    changes.note_no_failure(finding)
    return finding


def wrong_configuration(fleet: Fleet) -> Finding:
    """Start a peer with a setting that cannot be read; then correct it."""
    finding = Finding("a wrong setting", "exit code 78; not restarted; the journal says what to do")
    host, unit = fleet.hosts[0], "peers@9"
    host.write("/etc/peers/peers-9.env", "PEERS_LEASE_TIMEOUT=soon\n")
    code, _ = host.try_to("systemctl", "start", unit)
    finding.note("systemctl start fails", code != 0)
    finding.same("exit code", fleet.show(host, unit, "ExecMainStatus"), _CONFIG_ERROR)
    finding.same("state", fleet.show(host, unit, "SubState"), "failed")
    finding.same("restarts", fleet.show(host, unit, "NRestarts"), "0")
    said = host.run("journalctl", "--no-pager", "--output=cat", "--priority=err", f"--unit={unit}")
    finding.note("the journal names the setting, as an error", 'lease_timeout is "soon"' in said)
    host.write("/etc/peers/peers-9.env", _LONG_LEASE)
    host.run("systemctl", "start", unit)
    finding.note("corrected: it starts")
    return finding


def long_lease(fleet: Fleet) -> Finding:
    """Look at the peer that the last scenario started with a lease of ten minutes."""
    finding = Finding("a lease of ten minutes", "the watchdog (60 s) leaves such a peer alone")
    host, unit = fleet.hosts[0], "peers@9"
    since = int(fleet.show(host, unit, "ActiveEnterTimestampMonotonic"))
    now = float(host.run("cat", "/proc/uptime").split()[0])
    ran = now - since / 1e6
    finding.note(f"it has run for {ran:.0f} s", ran > 120)
    finding.same("restarts", fleet.show(host, unit, "NRestarts"), "0")
    host.run("systemctl", "stop", unit)
    return finding


def rolling_upgrade(fleet: Fleet) -> Finding:
    """Install the new release beside the old one, and restart one peer after the other."""
    old, new = fleet.wheels.old, fleet.wheels.new
    finding = Finding("rolling upgrade", f"{old} and {new} side by side; no attempt is lost")
    changes = Changes(fleet)
    mixed = []
    with timed() as seconds:
        for host in fleet.hosts:
            install(host, fleet.wheels, "new")
            host.run("systemctl", "start", "peers-migrate")
            for unit in PEERS:
                fleet.busy(host, unit)
                host.run("systemctl", "restart", unit)
                mixed.append("+".join(str(number) for number in fleet.releases()))
    finding.note(f"{seconds():.0f} s")
    finding.same("old+new peers", ", ".join(mixed), "3+1, 2+2, 1+3, 0+4")
    said = fleet.hosts[0].run("/opt/peers/bin/peers", "--version")
    finding.note(said.split(",")[0], new in said)
    changes.note_no_failure(finding)
    return finding


def stop_all(fleet: Fleet) -> Finding:
    """Stop the whole fleet while it works, and start it again."""
    finding = Finding("stop 'peers@*' on all hosts", "every peer drains and ends with 0")
    changes = Changes(fleet)
    running = [fleet.started(fleet.busy(host, *PEERS)) for host in fleet.hosts]
    with timed() as seconds:
        on_all(fleet.hosts, "systemctl", "stop", "peers@*")
    finding.at_most(f"{sum(map(len, running))} running tasks drained in", seconds(), LEASE)
    codes = {fleet.show(host, unit, "Result") for host in fleet.hosts for unit in PEERS}
    finding.same("results", ", ".join(codes), "success")
    finding.same("alive in the database", len(fleet.alive()), 0)
    with timed() as seconds:
        on_all(fleet.hosts, "systemctl", "start", "peers.target")
    fleet.await_all_alive(START)
    finding.at_most("all started by peers.target in", seconds(), START)
    changes.note_no_failure(finding)
    return finding
