"""The root file system of the machines, and the wheels that they install. Both are kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
FILES: Final = Path(__file__).parent / "files"
CACHE_VARIABLE: Final = "PEERS_TEST_FLEET_CACHE"
MIRROR_VARIABLE: Final = "PEERS_TEST_FLEET_MIRROR"

_SUITE: Final = "bookworm"
_MIRROR: Final = "http://deb.debian.org/debian"
_PACKAGES: Final = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "python3", "python3-venv", "postgresql",
    "iproute2", "procps",
)  # fmt: skip
_PYTHON: Final = "311"
"""The one of bookworm, whichever runs this."""
_USER: Final = 970
_RELEASES: Final = ("old", "new")

_PREPARE: Final = f"""
set -e
useradd --system --uid {_USER} --home-dir /srv/peers --create-home peers
systemctl enable systemd-networkd systemd-networkd-wait-online
systemctl disable postgresql
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \\
    dpkg-db-backup.timer logrotate.timer
echo "listen_addresses = '*'" > /etc/postgresql/15/main/conf.d/fleet.conf
echo 'host all all 10.20.0.0/24 scram-sha-256' >> /etc/postgresql/15/main/pg_hba.conf
mkdir -p /srv/ledger /wheels /etc/peers /etc/credstore && chmod 700 /etc/credstore
"""
_INSTALL_DEPENDENCIES: Final = """
set -e
for release in {releases}; do
    rm -rf /opt/peers-$release
    python3 -m venv /opt/peers-$release
    /opt/peers-$release/bin/pip install --quiet --no-index --find-links /wheels {names}
done
"""


@dataclass(frozen=True)
class Wheels:
    """The wheel of this checkout, and the same with the next version number."""

    folder: Path
    old: str
    new: str


def cache() -> Path:
    """Return the folder that is kept between runs."""
    return Path(os.environ.get(CACHE_VARIABLE) or PROJECT / "build" / "fleet").resolve()


def found_wheels(folder: Path) -> Wheels:
    """Return the releases that were built into this folder."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    return Wheels(folder, version, f"{version}.post1")


def wheels(folder: Path) -> Wheels:
    """Build both releases into this folder."""
    built = found_wheels(folder)
    _build(PROJECT, folder)
    with tempfile.TemporaryDirectory() as copy:
        for name in ("peers", "sql", "deploy"):
            shutil.copytree(PROJECT / name, Path(copy) / name,
                            ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
        for name in ("README.md", "LICENSE"):
            shutil.copy(PROJECT / name, copy)
        text = (PROJECT / "pyproject.toml").read_text()
        changed = text.replace(f'version = "{built.old}"', f'version = "{built.new}"', 1)
        (Path(copy) / "pyproject.toml").write_text(changed)
        _build(Path(copy), folder)
    return built


def _build(source: Path, folder: Path) -> None:
    _python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))


def root(built: Wheels) -> Path:
    """Return the root file system with the dependencies of Peers, from the cache if it is there."""
    place = cache() / f"root-{_digest(_SUITE, _PREPARE, *_PACKAGES)}"
    if not place.exists():
        _bootstrap(place)
    needs = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    digest, stamp = _digest(*needs, _INSTALL_DEPENDENCIES), place / "opt" / "dependencies"
    if not stamp.exists() or stamp.read_text() != digest:
        _install_dependencies(place, built, needs)
        stamp.write_text(digest)
    return place


def _bootstrap(place: Path) -> None:
    """Make the root file system; it appears under its name when it is complete."""
    mirror = os.environ.get(MIRROR_VARIABLE, _MIRROR)
    print(f"fleet: making the machines' file system from {mirror} (once, 2 minutes)", flush=True)
    partial = place.with_name(f"{place.name}.{os.getpid()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    include = ",".join(_PACKAGES)
    try:
        _run(
            "debootstrap", "--variant=minbase", f"--include={include}", _SUITE, str(partial), mirror
        )
        for name in ("etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname"):
            (partial / name).unlink(missing_ok=True)
        shutil.copy(FILES / "init", partial / "usr" / "local" / "sbin" / "fleet-init")
        in_root(partial, _PREPARE)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _install_dependencies(place: Path, built: Wheels, needs: list[str]) -> None:
    print("fleet: installing the dependencies of Peers into it (once)", flush=True)
    machine = platform.machine()
    platforms = [f"manylinux{version}_{machine}" for version in ("_2_28", "_2_17", "2014")]
    with tempfile.TemporaryDirectory() as folder:
        _python(
            "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", folder,
            "--python-version", _PYTHON, "--implementation", "cp",
            *(f"--abi={abi}" for abi in (f"cp{_PYTHON}", "abi3", "none")),
            *(f"--platform={each}" for each in (*platforms, "any")),
            str(next(built.folder.glob(f"peers-{built.old}-*.whl"))),
        )  # fmt: skip
        names = " ".join(f"'{need}'" for need in needs)
        script = _INSTALL_DEPENDENCIES.format(releases=" ".join(_RELEASES), names=names)
        in_root(place, script, f"--bind-ro={folder}:/wheels")


def in_root(place: Path, script: str, *options: str) -> None:
    """Run a shell script in this file system, without booting it."""
    _run(
        "systemd-nspawn", "--quiet", f"--directory={place}", "--register=no", "--keep-unit",
        "--pipe", "--private-network", *options, "/bin/sh", "-c", script,
    )  # fmt: skip


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _python(*arguments: str) -> None:
    _run(sys.executable, *arguments)


def _run(*command: str) -> None:
    """Run a command, and show what it said only if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise SystemExit(
            f"fleet: `{' '.join(command)[:300]}` ended with {done.returncode}:\n{said}"
        )
