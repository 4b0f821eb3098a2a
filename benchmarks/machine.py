"""Describe the machine that measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchmarks.server import SETTINGS, Server


def describe(server: Server) -> dict[str, object]:
    """Return what a reader needs to compare these figures with others."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgres": server.version,
        "settings": {name: value for name, value in SETTINGS.items() if not name.startswith("log")},
        "flush_us": round(server.flush_microseconds),
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
