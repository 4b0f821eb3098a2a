"""Count and time the statements of a database, as Postgres logs them.

This needs nothing of the measured system, not even the names of its functions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from psycopg import sql

from benchmarks.server import Connection

_LINE: Final = re.compile(r"(\d+)\|([^|]*)\|LOG:  duration: ([\d.]+) ms(?:  (\w+)[^:]*: ?(.*))?$")
_RUNS: Final = ("statement", "execute")
"""A message of these forms runs a statement; parse and bind only prepare one."""


class Statement(NamedTuple):
    """One statement that a client had run."""

    database: str
    text: str
    milliseconds: float


@contextmanager
def logged(connection: Connection, databases: Iterable[str]) -> Iterator[None]:
    """Have the server log each statement of the sessions that begin from now on."""
    change = sql.SQL("alter database {} set log_min_duration_statement = {}")
    names = [sql.Identifier(database) for database in databases]
    for name in names:
        connection.execute(change.format(name, sql.Literal(0)))
    try:
        yield
    finally:
        for name in names:
            connection.execute(change.format(name, sql.Literal(-1)))


def read(log: Path, offset: int) -> list[Statement]:
    """Read the statements that were logged after this byte of the file."""
    with log.open("rb") as opened:
        opened.seek(offset)
        return parse(opened.read().decode(errors="replace"))


def parse(text: str) -> list[Statement]:
    """Find the statements in a part of a log. The time to parse and bind one belongs to it."""
    statements = []
    preparing: dict[str, float] = defaultdict(float)
    for entry in _entries(text):
        found = _LINE.match(entry)
        if found is None:
            continue
        session, database, milliseconds, form, statement = found.groups()
        preparing[session] += float(milliseconds)
        if form in _RUNS:
            taken = preparing.pop(session)
            statements.append(Statement(database, statement.strip(), taken))
    return statements


def _entries(text: str) -> Iterator[str]:
    """Join the lines of each entry: all but its first begin with a tab."""
    entry: list[str] = []
    for line in text.splitlines():
        if not line.startswith("\t") and entry:
            yield " ".join(entry)
            entry = []
        entry.append(line.strip() if line.startswith("\t") else line)
    if entry:
        yield " ".join(entry)
