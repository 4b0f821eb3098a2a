"""Start and stop the server of an area. Callers hold the gate."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psycopg

from peers.embedded import binaries, watchdog
from peers.embedded.cluster import installation
from peers.embedded.errors import EmbeddedError
from peers.embedded.locks import locked
from peers.embedded.places import Area

START_SECONDS = 120.0
CONNECT_SECONDS = 5
LOG_TAIL_LINES = 20
POLL_SECONDS = watchdog.POLL_SECONDS

DEFAULTS = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# A throwaway cluster may lose its data when the machine (not the server) crashes.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def guard(area: Area) -> None:
    """Start a watchdog unless there is one. The caller also holds the users' lock."""
    if watchdog.is_locked(area.guarded.watchdog):
        return
    with area.log.open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-I", "-S", watchdog.__file__, *area.guarded],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        raise EmbeddedError(
            "The watchdog that stops the embedded Postgres did not start: "
            f"{sys.executable} ended with {done.returncode}.{log_tail(area)}"
        )


def bring_up(area: Area, version: str | None, settings: Mapping[str, str]) -> str:
    """Start the server unless it runs, create the database `peers`, return the version ("18.4").

    A running server that replies stays as it is. One that is shutting down is stopped first.
    """
    deadline = time.monotonic() + START_SECONDS
    launched = False
    while True:
        if not watchdog.is_running(area.guarded):
            if launched:
                raise EmbeddedError(
                    f"The embedded Postgres in {area.root} ended while it started.{log_tail(area)}"
                )
            _launch(area, version, settings)
            launched = True
        try:
            return _prepare(area)
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline:
                raise EmbeddedError(
                    f"The embedded Postgres in {area.root} runs, but has not replied for "
                    f"{START_SECONDS:g} s: {error} Stop it with `peers db stop`.{log_tail(area)}"
                ) from error
            if watchdog.is_orphaned(area.guarded):
                stop(area, signal.SIGQUIT)
            elif "shutting down" in str(error):  # it may be waiting for its clients to leave
                stop(area)
        time.sleep(POLL_SECONDS)


def _launch(area: Area, version: str | None, settings: Mapping[str, str]) -> None:
    account = area.account()
    found = binaries.usable_by(account, installation(area, version))
    area.create_sockets()
    # No process of this server runs, so a postmaster.pid is the remains of a crash. After a reboot,
    # its pid may belong to another Postgres.
    (area.data / "postmaster.pid").unlink(missing_ok=True)
    effective = {**DEFAULTS, **settings, **area.fixed_settings()}
    command = [str(found.bin / "postgres"), "-D", area.guarded.data]
    for name, value in effective.items():
        command += ["-c", f"{name}={value}"]
    if area.log.exists():
        area.log.replace(area.log.with_suffix(".log.old"))
    with area.log.open("ab") as log, locked(Path(area.guarded.server)) as inherited:
        # the shell ends at once, so that the server is not our child and we need not reap it
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(inherited,),
            start_new_session=True,
            check=True,
            **account.identity(),
        )


def _prepare(area: Area) -> str:
    """Connect, create the database `peers` if it is missing, return the server's version."""
    with psycopg.connect(
        area.url("postgres"), connect_timeout=CONNECT_SECONDS, autocommit=True
    ) as connection:
        known = "select 1 from pg_database where datname = 'peers'"
        if connection.execute(known).fetchone() is None:
            connection.execute("create database peers")
        return (connection.info.parameter_status("server_version") or "").split(" ")[0]


def stop(area: Area, first: signal.Signals = signal.SIGINT) -> None:
    """Stop the server and wait until its last process is gone."""
    if not watchdog.stop_server(area.guarded, first):
        raise EmbeddedError(
            f"The embedded Postgres in {area.root} does not end, even after SIGKILL: inspect it "
            f"with `ps -fp {','.join(map(str, watchdog.server_processes(area.guarded)))}`."
        )


def log_tail(area: Area) -> str:
    """Return the last lines of the server's log with a heading, or "" if there are none."""
    with suppress(FileNotFoundError):
        lines = area.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        if lines:
            return "\n".join([f"\nThe end of {area.log}:", *(f"  {line}" for line in lines)])
    return ""
