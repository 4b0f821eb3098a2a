"""The CPU time of Postgres and of the clients, from the scheduler's account of every thread."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_AFTER_NAME: Final = 2
"""In /proc/PID/stat the name ends with ")" and a blank; the state and the parent's id follow."""


class CpuTime(NamedTuple):
    """Nanoseconds of CPU time."""

    postgres: int
    client: int


class CpuMeter:
    """Add up the CPU time of two trees of processes from `begin` on.

    The account of a thread ends with it, so call `sample` now and then: what a thread used after
    the last sample is lost.
    """

    def __init__(self, postmaster: int, clients: Iterable[int]) -> None:
        self._roots = ([postmaster], list(clients))
        self._before: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._last: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def begin(self) -> None:
        """Count from now on."""
        self._before = self._read()
        self._last = ({}, {})

    def sample(self) -> None:
        """Read the account of every thread that is there."""
        for last, now in zip(self._last, self._read(), strict=True):
            last.update(now)

    def end(self) -> CpuTime:
        """Return what was used since `begin`."""
        self.sample()
        return CpuTime(*(
            sum(used - before.get(thread, 0) for thread, used in last.items())
            for before, last in zip(self._before, self._last, strict=True)
        ))  # fmt: skip

    def _read(self) -> tuple[dict[int, int], dict[int, int]]:
        children = _children()
        postgres, client = (_threads(_tree(roots, children)) for roots in self._roots)
        return postgres, client


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        if stat := _text(folder / "stat"):
            parent = int(stat[stat.rindex(")") + _AFTER_NAME :].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    return children


def _tree(roots: list[int], children: dict[int, list[int]]) -> list[int]:
    """Return these processes and all their descendants."""
    tree = list(roots)
    for pid in tree:  # grows meanwhile
        tree.extend(children.get(pid, []))
    return tree


def _threads(pids: list[int]) -> dict[int, int]:
    used = {}
    for pid in pids:
        for thread in _PROC.glob(f"{pid}/task/*"):
            if account := _text(thread / "schedstat"):
                used[int(thread.name)] = int(account.split()[0])
    return used


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # the process or the thread has ended
        return ""
