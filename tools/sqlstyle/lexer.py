"""Cut SQL into tokens: just enough to tell code from comments, strings and function bodies."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Kind(Enum):
    """What a token is; comments and white space are not tokens."""

    WORD = auto()  # a keyword or an unquoted name
    STRING = auto()  # quoted or dollar-quoted text that is data
    BODY = auto()  # dollar-quoted text that is code: a function's or a DO block's
    OTHER = auto()  # quoted names, numbers, parameters, operators


@dataclass(frozen=True)
class Token:
    """One token; `line` counts from 1, and `body` holds the tokens inside a BODY."""

    kind: Kind
    text: str
    line: int
    body: tuple["Token", ...] = ()


class UnterminatedError(Exception):
    """A quote or a comment that is never closed."""

    def __init__(self, line: int, opening: str) -> None:
        super().__init__(f"{opening} opened here is never closed")
        self.line = line


# The order decides: a string's prefix (E'…') must be tried before a word is.
_TOKEN: Final = re.compile(
    r"""
      (?P<space>   \s+ )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<string>  [eE]'(?:[^'\\]|\\.|'')*' | (?:[bBnNxX]|[uU]&)?'(?:[^']|'')*' )
    | (?P<dollar>  (?P<tag>\$(?:[A-Za-z_]\w*)?\$)(?P<inside>.*?)(?P=tag) )
    | (?P<name>    "(?:[^"]|"")*" )
    | (?P<word>    [A-Za-z_][\w$]* )
    | (?P<number>  \d[\w.]* | \$\d+ )
    | (?P<opening> '|"|\$|/\* )
    | (?P<other>   . )
    """,
    re.DOTALL | re.VERBOSE,
)


def tokens(text: str, line: int = 1) -> Iterator[Token]:
    """Yield the tokens of `text`, whose first line is number `line`.

    Dollar-quoted text is a BODY after `as` or in a DO statement, else a STRING.
    Raises UnterminatedError at an opening quote or comment without its end.
    """
    statement_start = previous = ""
    for match in _TOKEN.finditer(text):
        token = _token(match, line, is_code=previous == "as" or statement_start == "do")
        line += match[0].count("\n")
        if token is None:
            continue
        yield token
        previous = token.text.lower()
        statement_start = "" if previous == ";" else statement_start or previous


def _token(match: re.Match[str], line: int, *, is_code: bool) -> Token | None:
    text = match[0]
    if match["opening"]:
        raise UnterminatedError(line, text)
    if match["space"] or match["comment"]:
        return None
    if match["dollar"]:
        if is_code:
            return Token(Kind.BODY, text, line, tuple(tokens(match["inside"], line)))
        return Token(Kind.STRING, text, line)
    if match["string"]:
        return Token(Kind.STRING, text, line)
    return Token(Kind.WORD if match["word"] else Kind.OTHER, text, line)
