"""Make the checks that are functions of the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.database import functions
from peers.doctor.check import Check
from peers.doctor.findings import ERROR, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from peers.database.connection import Connection
    from peers.doctor.check import CheckContext

_PROBLEMS_SHOWN: Final = 20


def check_names(connection: Connection) -> list[str]:
    """Return the names of the checks that the database can make."""
    return [
        name for (name,) in connection.execute("select name from peers.doctor_check order by 1")
    ]


def find(connection: Connection, checks: list[str], older_than: timedelta | None) -> list[Finding]:
    """Make these checks in one statement."""
    rows = connection.execute(
        "select level, finding, subject, sentence, remedy from peers.doctor(%s, %s::interval)",
        (checks, older_than),
    )
    return [Finding(*row) for row in rows]


def _find_inconsistent(context: CheckContext) -> Iterator[Finding]:
    problems = functions.check(context.connection, repair=False)
    for problem in problems[:_PROBLEMS_SHOWN]:
        yield Finding(
            ERROR, "inconsistent", f"task {problem.task_id}", problem.problem,
            "`peers check --repair`, or SELECT * FROM peers.check(repair => true);",
        )  # fmt: skip
    if len(problems) > _PROBLEMS_SHOWN:
        yield Finding(
            ERROR, "inconsistent", "more tasks",
            f"{len(problems) - _PROBLEMS_SHOWN} more differences", "`peers check` lists them",
        )  # fmt: skip


THOROUGH: Final = Check(
    "inconsistent", "Do the tables that must agree agree?", _find_inconsistent, ("inconsistent",)
)
"""It reads every task, so it is made only when asked for, without a time limit."""
