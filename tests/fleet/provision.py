"""What an operator does to new hosts, as docs/operations.md says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.fleet.image import FILES, PROJECT, Wheels
from tests.fleet.machines import Machine

DATABASE_ADDRESS: Final = "10.20.0.2"
HOST_ADDRESSES: Final = {"host1": "10.20.0.11", "host2": "10.20.0.12"}
URL: Final = f"postgresql://postgres:fleet@{DATABASE_ADDRESS}/shop?connect_timeout=5"
"""The database, as a superuser."""

_PEERS_URL: Final = f"postgresql://peers:worker@{DATABASE_ADDRESS}/shop\n"
_OWNER_URL: Final = f"postgresql://shop_owner:owner@{DATABASE_ADDRESS}/shop\n"
_ROLES: Final = """
alter role postgres password 'fleet';
create role shop_owner login createrole password 'owner';
create role peers login password 'worker';
"""
_DATABASE: Final = """
create database shop owner shop_owner encoding 'UTF8' template template0
    lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8'
"""
_COPY_UNITS: Final = """
set -e
units=$(/opt/peers/bin/peers deploy systemd)
cp "$units"/*.service "$units"/*.target /etc/systemd/system/
systemctl daemon-reload
"""


def configure(host: Machine, queues: str, unit_lines: list[str]) -> None:
    """Write settings, credentials, the app and a drop-in; `queues` are those of its first peer."""
    host.write("/etc/peers/peers.env", (FILES / "peers.env").read_text())
    host.write("/etc/peers/peers-1.env", f"PEERS_QUEUES={queues}\n")
    host.write("/etc/credstore/peers_database_url", _PEERS_URL, 0o600)
    host.write("/etc/credstore/peers_migrate_url", _OWNER_URL, 0o600)
    drop_in = "\n".join(["[Service]", *unit_lines, ""])
    host.write("/etc/systemd/system/peers@.service.d/fleet.conf", drop_in)
    host.write("/srv/peers/fleet_app.py", (FILES / "fleet_app.py").read_text())
    ledger = PROJECT / "tests" / "e2e" / "ledger.py"
    host.write("/srv/peers/tests/e2e/ledger.py", ledger.read_text())


def set_up(database: Machine, hosts: list[Machine], wheels: Wheels) -> None:
    """Start Postgres, and install the old release on the hosts, all at the same time."""
    with ThreadPoolExecutor() as threads:
        jobs = [threads.submit(install, host, wheels, "old") for host in hosts]
        jobs.append(threads.submit(_start_postgres, database))
    for job in jobs:
        job.result()


def _start_postgres(database: Machine) -> None:
    database.run("systemctl", "start", "postgresql@15-main")
    psql = ("runuser", "-u", "postgres", "--", "psql", "-qv", "ON_ERROR_STOP=1")
    for script in (_ROLES, _DATABASE):
        database.run(*psql, "-c", script)


def install(host: Machine, wheels: Wheels, release: str) -> None:
    """Install a release beside the other one, and let /opt/peers lead to it."""
    version = wheels.old if release == "old" else wheels.new
    pip = (f"/opt/peers-{release}/bin/pip", "install", "--quiet", "--no-index")
    host.run(*pip, "--find-links=/wheels", f"/wheels/peers-{version}-py3-none-any.whl")
    host.run("ln", "-sfn", f"peers-{release}", "/opt/peers")
    host.run("sh", "-c", _COPY_UNITS)
