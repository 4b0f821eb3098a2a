"""Read statements out of a SQL file, and what they create and comment on."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from tools.sqlstyle.lexer import Kind, Token, tokens

_NAME: Final = r'(?:[\w$]+|"[^"]*")(?:\.(?:[\w$]+|"[^"]*"))*'

_CREATE: Final = re.compile(
    rf"""create\ (?P<replace>or\ replace\ )?
    (?:(?P<kept>global|local|temp|temporary|unlogged|unique|recursive|constraint)\ )*
    (?P<noun>schema|table|sequence|index|view|function|procedure|trigger)\ (?:concurrently\ )?
    (?P<guard>if\ not\ exists\ )?
    (?P<name>{_NAME})""",
    re.VERBOSE,
)
_ADD_COLUMN: Final = re.compile(rf"add column (?:if not exists )?(?P<name>{_NAME})")
_ALTER_TABLE: Final = re.compile(rf"alter table (?:if exists )?(?:only )?(?P<name>{_NAME})")
_COMMENT: Final = re.compile(rf"comment on (?P<noun>\w+) (?P<name>{_NAME}).* is '…'")
_NOT_A_COLUMN: Final = frozenset(
    [")", "constraint", "primary", "unique", "foreign", "check", "exclude", "like"]
)


@dataclass(frozen=True)
class Thing:
    """A named thing in the database, such as ('column', 'peers.task.kind')."""

    noun: str
    name: str

    def __str__(self) -> str:
        return f"{self.noun} {self.name}"


@dataclass(frozen=True)
class Creation:
    """What a CREATE statement says in its first words."""

    thing: Thing
    replaces: bool  # or replace
    guarded: bool  # if not exists
    constraint: bool  # a constraint trigger


@dataclass(frozen=True)
class Statement:
    """The tokens of one top-level statement, without its semicolon."""

    tokens: tuple[Token, ...]

    @property
    def line(self) -> int:
        """The line of the first word, counted from 1."""
        return self.tokens[0].line

    @cached_property
    def outline(self) -> str:
        """The statement on one line in lower case; '…' for a text, '' for none, $$ for a body."""
        return re.sub(r" ?\. ?", ".", " ".join(_outlined(token) for token in self.tokens))

    @cached_property
    def creation(self) -> Creation | None:
        """What the statement creates, if it is of a sort that the rules speak about."""
        match = _CREATE.match(self.outline)
        if match is None:
            return None
        return Creation(
            Thing(match["noun"], match["name"]),
            replaces=bool(match["replace"]),
            guarded=bool(match["guard"]),
            constraint=match["kept"] == "constraint",
        )

    @property
    def commented(self) -> Thing | None:
        """The thing that the statement comments on; an empty comment is none."""
        match = _COMMENT.match(self.outline)
        return Thing(match["noun"], match["name"]) if match else None

    def columns(self) -> Iterator[Thing]:
        """Yield the columns that a CREATE TABLE or an ALTER TABLE … ADD COLUMN brings."""
        if self.creation and self.creation.thing.noun == "table":
            for name in self._listed_columns():
                yield Thing("column", f"{self.creation.thing.name}.{name}")
        elif altered := _ALTER_TABLE.match(self.outline):
            for added in _ADD_COLUMN.finditer(self.outline):
                yield Thing("column", f"{altered['name']}.{added['name']}")

    def _listed_columns(self) -> Iterator[str]:
        depth, at_start = 0, False
        for token in self.tokens:
            if at_start and token.text.lower() not in _NOT_A_COLUMN:
                yield token.text.lower()
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            at_start = depth == 1 and token.text in {"(", ","}
            if depth == 0 and token.text == ")":
                return  # what follows is storage: with (…), partition by (…)


def _outlined(token: Token) -> str:
    if token.kind is Kind.STRING:
        return "''" if token.text.strip("'$ ") == "" else "'…'"
    return "$$" if token.kind is Kind.BODY else token.text.lower()


@dataclass(frozen=True)
class SqlFile:
    """A SQL file: its lines as they are, and its statements."""

    name: str
    lines: tuple[str, ...]
    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Read `text`; raises UnterminatedError when a quote or a comment never ends."""
        return cls(name, tuple(text.split("\n")), tuple(_statements(tokens(text))))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file at `path`, which is also its name."""
        return cls.parse(str(path), path.read_text(encoding="utf-8"))


def _statements(stream: Iterable[Token]) -> Iterator[Statement]:
    gathered: list[Token] = []
    in_body = False  # of a function: begin atomic … end
    for token in stream:
        last = [each.text.lower() for each in gathered[-2:]]
        in_body = (in_body and last != [";", "end"]) or last == ["begin", "atomic"]
        if token.text != ";" or in_body:
            gathered.append(token)
        elif gathered:
            yield Statement(tuple(gathered))
            gathered = []
    if gathered:
        yield Statement(tuple(gathered))
