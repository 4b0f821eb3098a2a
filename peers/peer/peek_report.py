"""Compose the reply to a peek: a text for people, and the same facts as JSON."""

from __future__ import annotations

import os
import socket
from typing import Any, Final

from peers.pool import process_facts
from peers.pool.stacks import format_stacks, innermost
from peers.protocol.messages import Stack
from peers.types import PEEK_REPORT_MAX_BYTES

_MIB: Final = 1 << 20
_MINUTE: Final = 60
_CUT: Final = "\n[cut at 64 KiB]"


def worker_lines(pid: int, found: dict[str, Any]) -> list[str]:
    """Return what a worker process uses, a sentence a line."""
    if not found:
        return [f"worker process {pid} has ended"]
    lines = [
        f"memory {_mib(found['rss_bytes'])} (at most {_mib(found['peak_rss_bytes'])}), "
        f"CPU {_percent(found['cpu_percent'])} now and {found['cpu_seconds']:.1f} s since the "
        f"process started {_ago(found['process_seconds'])} ago",
        f"process {found['state_name']}, threads: {found['threads']}, "
        f"open files: {'?' if found['open_files'] is None else found['open_files']}",
    ]
    lines += [f"file {path}" for path in found["file_paths"]]
    lines += [
        f"child process {child['pid']} ({child['name']}): {child['state_name']}, "
        f"memory {_mib(child['rss_bytes'])}, CPU time {child['cpu_seconds']:.1f} s"
        for child in found["children"]
    ]
    return lines


def why_silent(pid: int, seconds: float) -> str:
    """Return why a worker does not show its stacks."""
    found = process_facts.facts(pid, None)
    state = found.get("state")
    if state is None or state == "Z":
        return "no stack: the worker has just ended"
    if state == "T":
        return (
            "no stack: the worker is stopped by a signal such as SIGSTOP; on its host, "
            f"`kill -CONT {pid}` lets it go on"
        )
    if state == "t":
        return "no stack: a debugger has stopped the worker"
    where = found.get("kernel_function")
    inside = f", in {where}" if where else ""
    if state == "D":
        return (
            f"no stack: the worker waits in the kernel and cannot be interrupted{inside}; a disk "
            "or network file system may not respond"
        )
    return (
        f"no stack: the worker has not replied within {seconds:g} s (process "
        f"{found['state_name']}{inside})"
    )


def facts_of(
    phase: str, seconds: float | None, worker_pid: int | None, found: dict[str, Any],
    stacks: list[Stack], source: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the reply as a JSON object."""
    return {
        "phase": phase,
        "host": socket.gethostname(),
        "peer_pid": os.getpid(),
        "worker_pid": worker_pid,
        "seconds": None if seconds is None else round(seconds, 3),
        # the stack of a task that waits is another one's
        "innermost": innermost(stacks) if phase == "running" else None,
        "stacks_from": source,
        **found,
    }


def text_of(lines: list[str], stacks: list[Stack]) -> str:
    """Return the reply as a text of at most 64 KiB."""
    text = "\n".join(lines)
    shown = format_stacks(stacks)
    if shown:
        text += f"\n\n{shown}"
    return bounded(text)


def bounded(text: str) -> str:
    """Return a text that is cut between two characters if it has more than 64 KiB."""
    text = text.replace("\0", "\\x00")
    data = text.encode(errors="backslashreplace")
    if len(data) <= PEEK_REPORT_MAX_BYTES:
        return data.decode()
    return data[: PEEK_REPORT_MAX_BYTES - len(_CUT)].decode(errors="ignore") + _CUT


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / _MIB:.0f} MiB"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} %"


def _ago(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    minutes, _ = divmod(int(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
