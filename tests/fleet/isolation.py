"""Namespaces and control groups, so that a run leaves nothing on the machine that it runs on.

The run has a network, mounts and processes of its own. When its first process ends, however it
ends, the kernel ends all others and removes the bridge and the mounts. Only the control groups are
left; they are removed from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

INSIDE: Final = "PEERS_TEST_FLEET_INSIDE"
"""Set in the environment of the process inside of the namespaces, to the name of the run."""

_NAME: Final = "peers-fleet-"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_HARNESS: Final = "harness"
_LEAVE_GROUP: Final = f"""
own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir -p "$own/{_HARNESS}"
for process in $(cat "$own/cgroup.procs"); do
    echo "$process" > "$own/{_HARNESS}/cgroup.procs" || true
done
exec "$@"
"""
"""With version 2, a group with processes of its own cannot lend controllers to the groups of the
machines. So its processes move into a group beside these.
"""
_BOOTED: Final = Path("/run/systemd/system")
_PROGRAMS: Final = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
}
_KERNEL: Final = ("overlay",)


def obstacles() -> list[str]:
    """Return why no machine can be booted here; nothing if one can."""
    found = [] if os.geteuid() == 0 else ["it must run as root: nspawn machines need it"]
    found += [
        f"{program} is missing: apt-get install {package}"
        for program, package in _PROGRAMS.items()
        if shutil.which(program) is None
    ]
    filesystems = Path("/proc/filesystems").read_text().split()
    found += [
        f"the kernel has no {name} file system" for name in _KERNEL if name not in filesystems
    ]
    if not found:
        found += _refused(
            ["unshare", "--net", "--mount", "ip", "link", "add", "name", "b", "type", "bridge"]
        )
    return found


def _refused(command: list[str]) -> list[str]:
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return [f"`{' '.join(command)}` says: {tried.stderr.strip()}"] if tried.returncode else []


def run_inside(arguments: list[str]) -> int:
    """Run this program again in namespaces of its own; clean up after it; return its exit code.

    Ctrl-C reaches it as well: it stops its machines, so we wait. SIGTERM ends everything at once.
    """
    name = f"{_NAME}{os.getpid()}"
    command = [
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
        sys.executable, "-m", "tests.fleet", *arguments,
    ]  # fmt: skip
    if _is_unified():
        command = ["sh", "-c", _LEAVE_GROUP, "sh", *command]
    if _BOOTED.is_dir():  # systemd owns the control groups here, and lends us some
        lent = ["systemd-run", "--scope", "--quiet", f"--unit={name}", "--property=Delegate=yes"]
        command = [*lent, *command]
    process = subprocess.Popen(command, env={**os.environ, INSIDE: name})
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    try:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()
    finally:
        _remove_groups(name)


def remove_leftovers(folder: Path) -> None:
    """Remove what runs that were killed have left in this folder and in the control groups."""
    for left in [
        *folder.glob("run-*"),
        *(each for own in _own_groups() for each in own.glob(f"{_NAME}*")),
    ]:
        pid = left.name.removeprefix(_NAME).removeprefix("run-")
        if Path("/proc", pid).exists():
            continue
        if left.is_relative_to(folder):
            shutil.rmtree(left, ignore_errors=True)
        else:
            _remove_groups(left.name)


class Groups:
    """The control groups of one machine, one in each hierarchy, below those of this process."""

    def __init__(self, run: str, machine: str) -> None:
        self._folders = [own / run / machine for own in _own_groups()]

    def create(self) -> list[Path]:
        """Create them; return their files that take a process."""
        for folder in self._folders:
            _create(folder)
        return [folder / "cgroup.procs" for folder in self._folders]


def _create(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "cpuset.cpus").exists():  # version 1: a new group has none, and takes no process
        for each in (folder.parent, folder):
            for name in ("cpuset.cpus", "cpuset.mems"):
                (each / name).write_text((each.parent / name).read_text())
    elif _is_unified():  # version 2: a group lends the controllers that it has to those below
        for each in (folder.parent.parent, folder.parent):
            (each / "cgroup.subtree_control").write_text("+memory +pids +cpu")


def _is_unified() -> bool:
    """Return whether version 2 is the only hierarchy."""
    return (_CGROUPS / "cgroup.controllers").exists()


def _own_groups() -> list[Path]:
    """Return the directory of this process's control group in each mounted hierarchy.

    With version 2 it is the one above: see `_LEAVE_GROUP`.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mounted = controllers.removeprefix("name=")
        for place in [_CGROUPS / mounted] if mounted else [_CGROUPS / "unified", _CGROUPS]:
            if (place / "cgroup.procs").exists():
                own = place / path.removeprefix("/")
                found.append(own.parent if own.name == _HARNESS else own)
                break
    return found


def _remove_groups(run: str) -> None:
    """Remove the groups of all machines. The kernel may still be ending their processes."""
    deadline = time.monotonic() + 10
    for own in _own_groups():
        top = own / run
        while top.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.05)
