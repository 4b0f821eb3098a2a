"""The house style of the SQL, checked: `python -m tools.sqlstyle sql`.

Prints one line for each finding. Exit codes: 0 clean, 1 findings, 2 nothing to check.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from tools.sqlstyle.lexer import Kind, Token, UnterminatedError
from tools.sqlstyle.statements import SqlFile, Statement, Thing

MAX_COLUMNS: Final = 120

_REPLACEABLE: Final = frozenset(["function", "procedure", "view", "trigger"])
_GUARDABLE: Final = frozenset(["schema", "table", "sequence", "index"])
_COMMENTED: Final = frozenset(["table", "view", "function", "procedure"])
_AFTER_STATIC_EXECUTE: Final = frozenset(["on", "function", "procedure"])


@dataclass(frozen=True, order=True)
class Finding:
    """One breach of one rule; `line` counts from 1."""

    file: str
    line: int
    rule: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.sentence}"


def layout(file: SqlFile) -> Iterator[Finding]:
    """No tabs, nothing after the last character of a line, no line longer than MAX_COLUMNS."""
    for number, line in enumerate(file.lines, start=1):
        if "\t" in line:
            yield Finding(file.name, number, "layout", "a tab; indent with spaces")
        if line != line.rstrip():
            yield Finding(file.name, number, "layout", "white space at the end; remove it")
        if len(line) > MAX_COLUMNS:
            sentence = f"{len(line)} columns, at most {MAX_COLUMNS}; break the line"
            yield Finding(file.name, number, "layout", sentence)


def lower_case(file: SqlFile) -> Iterator[Finding]:
    """Keywords and unquoted names are in lower case, in function bodies too.

    Postgres folds unquoted names to lower case anyway: a capital there says nothing.
    """
    for statement in file.statements:
        for token in _flat(statement.tokens):
            if token.kind is Kind.WORD and token.text != token.text.lower():
                sentence = f"{token.text} is not in lower case; write {token.text.lower()}"
                yield Finding(file.name, token.line, "lower-case", sentence)


def search_path(file: SqlFile) -> Iterator[Finding]:
    """Every function pins its search_path; one that runs as its owner names pg_temp, last.

    Without it, a caller could put a temporary table in the place of one of ours. A function whose
    body is not a string (`return …` or `begin atomic …`) needs none: its names are resolved when it
    is created.
    """
    for statement in file.statements:
        if not statement.creation or statement.creation.thing.noun not in {"function", "procedure"}:
            continue
        if not re.search(r" as (\$\$|'…'|'')", statement.outline):
            continue
        path = re.search(
            r" set search_path (?:=|to) (?P<names>[^ ]+(?: , [^ ]+)*)", statement.outline
        )
        thing = statement.creation.thing
        if path is None:
            sentence = (
                f"{thing} has no search_path; add: set search_path = pg_catalog, peers, pg_temp"
            )
            yield Finding(file.name, statement.line, "search-path", sentence)
        elif "security definer" in statement.outline and path["names"].split()[-1] != "pg_temp":
            sentence = f"the search_path of {thing}, a security definer, does not end in pg_temp"
            yield Finding(file.name, statement.line, "search-path", sentence)


def static_sql(file: SqlFile) -> Iterator[Finding]:
    """Find an EXECUTE of a text in a function body: its SQL must be static."""
    bodies = (token.body for statement in file.statements for token in statement.tokens)
    for body in bodies:
        words = (token for token in _flat(body) if token.kind is not Kind.STRING)
        for word, after in pairwise(words):
            is_static = after.text.lower() in _AFTER_STATIC_EXECUTE
            if word.text.lower() == "execute" and not is_static:
                sentence = "execute of a text; write the statement out"
                yield Finding(file.name, word.line, "static-sql", sentence)


def repeatable(file: SqlFile) -> Iterator[Finding]:
    """Every file may be applied again: `or replace` for code, `if not exists` for tables."""
    for statement in file.statements:
        creation = statement.creation
        if creation is None or creation.constraint:  # Postgres replaces no constraint trigger
            continue
        if creation.thing.noun in _REPLACEABLE and not creation.replaces:
            wanted = f"create or replace {creation.thing.noun}"
        elif creation.thing.noun in _GUARDABLE and not creation.guarded:
            wanted = f"create {creation.thing.noun} if not exists"
        else:
            continue
        sentence = f"{creation.thing} cannot be applied again; write: {wanted}"
        yield Finding(file.name, statement.line, "repeatable", sentence)


def named_query(file: SqlFile) -> Iterator[Finding]:
    """Find a CREATE INDEX without a comment above it that names the query it serves."""
    for statement in file.statements:
        if not statement.creation or statement.creation.thing.noun != "index":
            continue
        above = file.lines[statement.line - 2] if statement.line > 1 else ""
        if not re.match(r"\s*--.*\w", above):
            sentence = (
                f"{statement.creation.thing} serves no named query; name it in a comment above"
            )
            yield Finding(file.name, statement.line, "named-query", sentence)


def commented(files: Iterable[SqlFile]) -> Iterator[Finding]:
    """Every table, column, view and function has a COMMENT ON in one of the files.

    Functions whose name starts with an underscore are exempt. Overloads share a name, so their
    comments are counted. A view's columns are known to a live database only: not seen here.
    """
    files = tuple(files)
    comments = Counter(s.commented for file in files for s in file.statements if s.commented)
    for file in files:
        for statement in file.statements:
            for thing in _speaking(statement):
                comments[thing] -= 1
                if comments[thing] < 0:
                    sentence = f"{thing} has no comment; add: comment on {thing} is '…'"
                    yield Finding(file.name, statement.line, "commented", sentence)


def _speaking(statement: Statement) -> Iterator[Thing]:
    if statement.creation and statement.creation.thing.noun in _COMMENTED:
        thing = statement.creation.thing
        is_internal = thing.name.rpartition(".")[2].startswith("_")
        if not (is_internal and thing.noun in {"function", "procedure"}):
            yield thing
    yield from statement.columns()


def _flat(stream: Iterable[Token]) -> Iterator[Token]:
    for token in stream:
        yield token
        yield from _flat(token.body)


RULES: Final = (layout, lower_case, search_path, static_sql, repeatable, named_query)


def check(files: Iterable[SqlFile]) -> list[Finding]:
    """Apply every rule to the files, which together are one schema; findings in file order."""
    files = tuple(files)
    findings = [finding for file in files for rule in RULES for finding in rule(file)]
    return sorted([*findings, *commented(files)])


def main(arguments: list[str] | None = None) -> int:
    """Check every `*.sql` below the folders named on the command line."""
    parser = argparse.ArgumentParser(prog="sqlstyle", description="Check the style of SQL files.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    folders: list[Path] = parser.parse_args(arguments).folders
    paths = [path for folder in folders for path in sorted(folder.rglob("*.sql"))]
    if not paths:
        print(f"no .sql file below {', '.join(map(str, folders))}", file=sys.stderr)
        return 2
    files, findings = [], []
    for path in paths:
        try:
            files.append(SqlFile.read(path))
        except UnterminatedError as error:
            findings.append(Finding(str(path), error.line, "syntax", str(error)))
    findings += check(files)
    for finding in findings:
        print(finding)
    print(f"SQL style: {len(paths)} files, {len(findings)} findings")
    return 1 if findings else 0
