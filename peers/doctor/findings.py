"""What a check finds."""

from __future__ import annotations

from typing import Final, NamedTuple

ERROR: Final = "error"
"""Something does not work, or soon will not."""
WARNING: Final = "warning"
"""It costs speed or delays tasks."""
NOTE: Final = "note"
"""It is worth knowing."""
LEVELS: Final = (ERROR, WARNING, NOTE)

NOT_MADE: Final = "check_not_made"


class Finding(NamedTuple):
    """One finding. The columns of peers.doctor() have the same names and meanings."""

    level: str
    finding: str
    """Its stable name; docs/doctor.md explains it."""
    subject: str
    sentence: str
    remedy: str
    """What to type."""


def not_made(check: str, reason: str, remedy: str) -> Finding:
    """Return the finding that a check was not made."""
    return Finding(NOTE, NOT_MADE, check, f"the check was not made: {reason}", remedy)


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Return the findings, the worst first."""
    return sorted(findings, key=lambda found: (LEVELS.index(found.level), found[1:3]))
