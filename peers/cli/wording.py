"""Say errors of the client and of SQL functions in the words of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from peers.cli.parser import advice
from peers.errors import BadArgument

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from peers.errors import PeersError

_COMMANDS: Final = {
    "cancel": "cancel",
    "change": "change",
    "retry": "dead retry",
    "discard": "dead discard",
    "retry_dead": "dead retry",
    "discard_dead": "dead discard",
    "cancel_tasks": "cancel",
    "dead_letter": "dead list",
    "dead_cause": "dead list --by-cause",
    "open_limit": "limit open",
    "limit_status": "limit list",
    "schedule_status": "schedule list",
    "peer_status": "status",
}
"""The commands for functions and views of SQL that errors name."""

_SQL: Final = re.compile(
    rf"(?:\b[Tt]he view )?\bpeers\.({'|'.join(_COMMANDS)})\b(?:\(\w*(, args)?\))?(?!\()"
)
_TABLE: Final = re.compile(r"^peers\.\w+: ")
_SQL_EXAMPLE: Final = re.compile(r"For example: (?:INSERT |peers\.|\{)")
_IN_A_SHELL: Final = re.compile(
    r"(?:\w+ => \w+; in Python: \S+; |(?:^|(?<=[.] ))[^;]*; )in a shell: "
)
_NO_PARENT: Final = re.compile(r"bad graph: there is no task ([0-9]+), which an edge names")


def in_words_of_the_shell(error: PeersError, args: argparse.Namespace) -> None:
    """Rewrite an error in place, so that it names options and commands that can be typed.

    The same error is also raised in Python and in SQL, where it names parameters and functions.
    """
    options = _options(args.parser)
    error.message = _with_commands(error.message, args)
    if error.hint is not None:
        error.hint = _with_commands(_IN_A_SHELL.sub("", error.hint), args)
    if not isinstance(error, BadArgument):
        return
    if found := _NO_PARENT.fullmatch(error.message):
        error.message = f"depends_on must be a task that exists, and there is no task {found[1]}"
        error.hint = "It never existed, or it ended and was pruned."
    error.message = _with_options(_TABLE.sub("", error.message), options)
    if error.hint is not None:
        error.hint = _with_options(error.hint, options)
        if _SQL_EXAMPLE.match(error.hint):
            error.hint = f"`{args.command} --help` shows how."


def _options(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the options of a command, by the names of the parameters that they set."""
    found = {
        action.dest: next(each for each in action.option_strings if each.startswith("--"))
        for action in parser._actions  # noqa: SLF001 - argparse has no public way to list them
        if action.option_strings
    }
    return found | {
        name.removesuffix("_at"): option  # some functions say until, and others until_at
        for name, option in found.items()
        if name == "until_at"
    }


def _with_commands(text: str, args: argparse.Namespace) -> str:
    def command(match: re.Match[str]) -> str:
        return f"`{advice(args, _COMMANDS[match[1]] + (' --args' if match[2] else ''))}`"

    return _SQL.sub(command, text)


def _with_options(text: str, options: Mapping[str, str]) -> str:
    """Return the text with options for the names of parameters. Quoted texts stay as they are.

    A name may be a word of prose, too, such as queue. It is a parameter at the start of the text,
    or in a list that "needs" or "exclude" the others. One with "_" is never a word of prose.
    """
    names = "|".join(map(re.escape, sorted(options, key=len, reverse=True)))
    long = "|".join(re.escape(name) for name in options if "_" in name) or r"(?!)"
    pattern = re.compile(
        rf"""
        (?<![\w.-])(?P<set>{names})\s?=\s?(?P<value>"[^"]*"|'[^']*'|[\w.]+)
        | "[^"]*" | '[^']*'
        | (?:(?<=needs\ )an?\ )?(?<![\w.-])(?P<long>{long})(?![\w-])
        | (?:^|(?<=needs\ )(?:an?\ )?|(?<=and\ )|(?<=or\ )|(?<=Leave\ )|(?<=at\ least\ ))
          (?P<word>{names})
          (?=\ (?:must|needs?|and|or|exclude|belong|has|out)\b|\ \(|[,.:;]|$)
        """,
        re.VERBOSE,
    )

    def option(match: re.Match[str]) -> str:
        if match["set"]:
            value = match["value"].strip("\"'")
            shown = "" if value in ("true", "True") else f" {_quoted(value)}"
            return options[match["set"]] + shown
        name = match["long"] or match["word"]
        return options[name] if name else match[0]

    return pattern.sub(option, text)


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w.:+-]+", value) else f'"{value}"'
