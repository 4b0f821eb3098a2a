"""Machines with their own systemd, address and disk, as systemd-nspawn boots them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fleet.image import FILES
from tests.fleet.isolation import Groups

BRIDGE: Final = "fleet0"
OUTSIDE: Final = "10.20.0.1"
"""The address of this process."""

_BOOT_WITHIN: Final = 90.0
_END_WITHIN: Final = 30.0
_ENTER_GROUPS: Final = (
    'while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done; shift; exec "$@"'
)
"""A shell that joins the control groups of its arguments and becomes the command after --."""


class CommandError(Exception):
    """A command in a machine failed."""


def make_network() -> None:
    """Make the bridge that the machines are connected to. It leads nowhere else."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "name", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL)


@dataclass
class Machine:
    """One machine. Its disk survives when it is powered off."""

    name: str
    address: str
    folder: Path
    """For its disk and its console; of this machine alone."""
    binds: dict[Path, str]
    """Folders of ours, and where it sees them."""
    groups: Groups
    _process: subprocess.Popen[bytes] | None = None
    _leader: int = 0
    _powered_on_at: float = 0.0
    boots: list[float] = field(default_factory=list)
    """How long each boot took, in seconds."""

    @property
    def root(self) -> Path:
        """Return its file system, as it sees it."""
        return self.folder / "root"

    def install(self, image: Path) -> None:
        """Give it a disk: the image below, and what it writes above."""
        for name in ("root", "above", "work"):
            (self.folder / name).mkdir(parents=True)
        layers = f"lowerdir={image},upperdir={self.folder}/above,workdir={self.folder}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True
        )
        network = (FILES / "host0.network").read_text().replace("@ADDRESS@", self.address)
        self.write("/etc/systemd/network/10-host0.network", network)
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n{self.address} {self.name}\n")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of its disk."""
        file = self.root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def remove(self, path: str) -> None:
        """Remove a file of its disk."""
        (self.root / path.removeprefix("/")).unlink()

    def power_on(self) -> None:
        """Begin to boot."""
        command = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}",
            "--register=no", "--keep-unit", f"--network-bridge={BRIDGE}", "--link-journal=no",
            "--console=pipe", "--kill-signal=SIGRTMIN+3", "--resolv-conf=off", "--timezone=off",
            *(f"--bind={ours}:{theirs}" for ours, theirs in self.binds.items()),
            "/usr/local/sbin/fleet-init",
        ]  # fmt: skip
        groups = map(str, self.groups.create())
        self._powered_on_at = time.monotonic()
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", _ENTER_GROUPS, "sh", *groups, "--", *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop the machines
            )  # fmt: skip

    def await_boot(self) -> None:
        """Wait until everything that starts at boot has started."""
        while not self._has_booted():
            if self._process is None or self._process.poll() is not None:
                raise CommandError(f"{self.name} did not boot:\n{self.console()}")
            if time.monotonic() - self._powered_on_at > _BOOT_WITHIN:
                raise CommandError(f"{self.name} is still booting:\n{self.console()}")
            time.sleep(0.05)
        self.boots.append(time.monotonic() - self._powered_on_at)

    def _has_booted(self) -> bool:
        self._leader = self._find_leader()
        if not self._leader:
            return False
        state = self._enter("systemctl", "is-system-running", "--wait").stdout.strip()
        return state in ("running", "degraded")

    def _find_leader(self) -> int:
        """Return the pid of its systemd, 0 if it does not run yet."""
        assert self._process is not None
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                lines = dict(
                    line.split(":\t", 1)
                    for line in status.read_text().splitlines()
                    if ":\t" in line
                )
                ours = lines["PPid"] == str(self._process.pid) and lines["Name"] == "systemd"
                if ours and lines["NSpid"].split()[-1] == "1":
                    return int(lines["Pid"])
        return 0

    def run(self, *command: str) -> str:
        """Run a command in it, and return its output. Raises `CommandError`."""
        done = self._enter(*command)
        if done.returncode:
            raise CommandError(
                f"{self.name}: `{' '.join(command)}` ended with {done.returncode}: "
                f"{(done.stdout + done.stderr).strip()}"
            )
        return done.stdout

    def try_to(self, *command: str) -> tuple[int, str]:
        """Run a command in it; return its exit code, and all that it said."""
        done = self._enter(*command)
        return done.returncode, done.stdout + done.stderr

    def _enter(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--target={self._leader}", "--all", "--wd", "--", *command],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )  # fmt: skip

    def cut_power(self) -> None:
        """End it as a power cut does: nobody it talked to learns of it."""
        self.connect(connected=False)
        self.kill()

    def connect(self, *, connected: bool) -> None:
        """Connect its network cable, or pull it out: packets vanish, and nobody learns of it."""
        _ip("link", "set", f"vb-{self.name}", "up" if connected else "down")

    def shut_down(self) -> None:
        """Stop it, with force if it takes long."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_WITHIN)
        self.kill()

    def kill(self) -> None:
        """Kill its first process, with which the kernel kills all others; nspawn then ends."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._leader and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_WITHIN)
        process.kill()
        process.wait()

    def console(self) -> str:
        """Return the last lines of its console."""
        return "\n".join((self.folder / "console").read_text(errors="replace").splitlines()[-30:])

    def journal(self) -> list[dict[str, Any]]:
        """Return its journal of the peers: unit, priority and message of each line."""
        lines = self.run("journalctl", "--no-pager", "--output=json", "--unit=peers@*")
        return [parse_entry(line) for line in lines.splitlines()]

    def keep_journal(self, folder: Path) -> None:
        """Copy its journal as text, also if it is off, for whoever looks for a reason."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, units in (("peers", ["--unit=peers*"]), ("all", [])):
            with (folder / f"{self.name}-{name}.log").open("wb") as text:
                subprocess.run(
                    ["journalctl", "--no-pager", "--output=short-precise",
                     f"--directory={self.root}/var/log/journal", *units],
                    stdout=text, stderr=subprocess.STDOUT, check=False, stdin=subprocess.DEVNULL,
                )  # fmt: skip
        shutil.copy(self.folder / "console", folder / f"{self.name}-console.log")


def parse_entry(line: str) -> dict[str, Any]:
    """Return unit, priority and message of a line of `journalctl --output=json`."""
    entry = json.loads(line)
    return {
        "unit": entry.get("_SYSTEMD_UNIT", ""),
        "priority": int(entry.get("PRIORITY", 6)),
        "message": str(entry.get("MESSAGE", "")),
    }
