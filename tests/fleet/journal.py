"""What the journals of the hosts say at the end."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from tests.fleet.fleet import Fleet
from tests.fleet.report import Finding

_WARNING: Final = 4
_NAMES: Final = {3: "err", 4: "warning", 5: "notice", 6: "info"}
_EXPECTED: Final = {
    "a killed worker": r"SIGKILL",
    "reclaimed tasks": r"reclaimed task \d+",
    "the outage": r"the database",
    "fenced peers": r"lease",
}
"""What an operator looks for among the warnings and errors, by what the sentence contains."""


def read_journal(fleet: Fleet) -> Finding:
    """Read the journals as an operator does: warnings first."""
    finding = Finding("journalctl -u 'peers@*' -p warning", "what happened, with task ids; no bug")
    entries = [entry for host in fleet.hosts for entry in host.journal()]
    own = [entry for entry in entries if entry["unit"].startswith("peers@")]
    counted = Counter(_NAMES.get(entry["priority"], entry["priority"]) for entry in own)
    finding.note(f"lines: {dict(counted)}", {"info", "warning", "err"} <= set(counted))
    loud = [entry["message"] for entry in own if entry["priority"] <= _WARNING]
    for what, pattern in _EXPECTED.items():
        finding.note(what, any(re.search(pattern, line) for line in loud))
    hog = fleet.value("select id from peers.task where kind = 'hog'")
    finding.note(
        "the task that died, by its id", any(re.search(rf"\btask {hog}\b", line) for line in loud)
    )
    bugs = [line for line in loud if "bug in Peers" in line or "Traceback" in line]
    finding.same("tracebacks and bugs", bugs or "none", "none")
    return finding
