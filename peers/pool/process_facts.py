"""Read from /proc what a worker process uses: memory, CPU, files, children.

Nothing here waits for the process, even if it hangs in the kernel. `cmdline` and `smaps` would.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STATE, _USER_TIME, _SYSTEM_TIME, _STARTED = 0, 11, 12, 19
"""Fields of `stat`, without the pid and the name of the program; see proc_pid_stat(5)."""
_PROC: Final = Path("/proc")
_CHILDREN_MAX: Final = 20
_FILES_MAX: Final = 10
_STREAMS: Final = (0, 1, 2)
_STATES: Final = {
    "R": "running",
    "S": "sleeping",
    "D": "in the kernel, uninterruptible",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "ended",
    "I": "idle",
}


@dataclass(frozen=True, slots=True)
class CpuTime:
    """How much CPU time a process has used at some time."""

    at: float
    seconds: float


def cpu_time(pid: int) -> CpuTime | None:
    """Return how much CPU time a process has used; None if it has ended."""
    fields = _stat(_PROC / str(pid))
    if fields is None:
        return None
    return CpuTime(time.monotonic(), _cpu_seconds(fields))


def facts(pid: int, before: CpuTime | None) -> dict[str, Any]:
    """Return what a process uses, for the reply to a peek; empty if it has ended."""
    folder = _PROC / str(pid)
    fields, status = _stat(folder), _status(folder)
    if fields is None or not status:
        return {}
    found: dict[str, Any] = {
        "state": fields[_STATE],
        "state_name": _STATES.get(fields[_STATE], fields[_STATE]),
        "rss_bytes": _bytes(status.get("VmRSS")),
        "peak_rss_bytes": _bytes(status.get("VmHWM")),
        "threads": int(status.get("Threads", 0)),
        "cpu_seconds": _cpu_seconds(fields),
        "process_seconds": round(_seconds_since_boot() - int(fields[_STARTED]) / _TICKS, 1),
        "cpu_percent": _percent(pid, before),
        "children": _children(pid),
        **_files(folder),
    }
    with contextlib.suppress(OSError):
        found["kernel_function"] = (folder / "wchan").read_text().strip("0 \n") or None
    return found


def state(pid: int) -> str | None:
    """Return the letter of a process's state; None if it has ended."""
    fields = _stat(_PROC / str(pid))
    return None if fields is None else fields[_STATE]


def state_of_thread(pid: int, thread: int) -> str | None:
    """Return the letter of a thread's state; None if it has ended."""
    fields = _stat(_PROC / str(pid) / "task" / str(thread))
    return None if fields is None else fields[_STATE]


def thread_named(pid: int, name: str) -> int | None:
    """Return the thread of this name; None: there is none."""
    with contextlib.suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            if (task / "comm").read_text(errors="replace").rstrip("\n") == name:
                return int(task.name)
    return None


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    return _has_signal(_PROC / str(pid), "SigCgt", number)


def handles_signal(pid: int, thread: int, number: int) -> bool:
    """Return whether the handler of a signal has not returned in this thread.

    The signal is pending before the handler starts, and blocked while it runs.
    """
    folder = _PROC / str(pid) / "task" / str(thread)
    return any(_has_signal(folder, mask, number) for mask in ("SigPnd", "SigBlk"))


def _has_signal(folder: Path, mask: str, number: int) -> bool:
    return bool(int(_status(folder).get(mask, "0"), 16) >> (number - 1) & 1)


def _stat(folder: Path) -> list[str] | None:
    """Return the fields of `stat` after the name of the program."""
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _status(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / "status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _cpu_seconds(fields: list[str]) -> float:
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS


def _bytes(kibibytes: str | None) -> int | None:
    return None if kibibytes is None else int(kibibytes.split()[0]) * 1024


def _seconds_since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _percent(pid: int, before: CpuTime | None) -> float | None:
    """Return the CPU time since `before`, in percent of one CPU."""
    now = cpu_time(pid)
    if before is None or now is None or now.at <= before.at:
        return None
    return round(100 * (now.seconds - before.seconds) / (now.at - before.at), 1)


def _children(pid: int) -> list[dict[str, Any]]:
    """Return the processes that a process has started and that have not ended."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                pids += map(int, (task / "children").read_text().split())
    found = []
    for child in pids[:_CHILDREN_MAX]:
        folder = _PROC / str(child)
        fields, status = _stat(folder), _status(folder)
        if fields is not None and status:
            found.append(
                {
                    "pid": child,
                    "name": status.get("Name", "?"),
                    "state": fields[_STATE],
                    "state_name": _STATES.get(fields[_STATE], fields[_STATE]),
                    "rss_bytes": _bytes(status.get("VmRSS")),
                    "cpu_seconds": _cpu_seconds(fields),
                }
            )
    return found


def _files(folder: Path) -> dict[str, Any]:
    """Return how many descriptors are open, and some paths of regular files."""
    paths: list[str] = []
    count = 0
    try:
        for entry in (folder / "fd").iterdir():
            count += 1
            if int(entry.name) in _STREAMS:
                continue
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("/") and not target.startswith(
                    ("/dev/", "/proc/", "/memfd:", "/sys/")
                ):
                    paths.append(target.encode(errors="backslashreplace").decode())
    except OSError:
        return {"open_files": None, "file_paths": []}
    return {"open_files": count, "file_paths": sorted(set(paths))[:_FILES_MAX]}
