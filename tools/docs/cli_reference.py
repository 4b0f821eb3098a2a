"""docs/cli.md: every command with its options, from the tree of argparse."""

# ruff: noqa: SLF001 - argparse has no public way to list the arguments of a parser

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from typing import Final

from peers import cli
from peers.cli.parser import Parser
from tools.docs.markdown import code, notice, table

_INTRODUCTION: Final = """
# Command line

Results go to standard output and messages to standard error. Every command that reads has
`--json`, which prints one JSON document. `peers COMMAND --help` shows the same texts as this page.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed; `status` and `check`: something needs attention |
| 2 | wrong usage: an argument that the command does not know, or a value that it refuses |
| 3 | the database cannot be reached |
| 4 | the task or the run does not exist |
| 5 | `predict`: the output is there, but more rows are dead than `--max-dead` allows |
| 78 | a setting is missing or wrong, or the schema does not fit this version |
| 130 | stopped by Ctrl-C |
| 141 | nobody reads the output any more |

These options belong to every command that uses the database:

| option | meaning |
|---|---|
| `--database-url URL` | database URL (default: `PEERS_DATABASE_URL`, then libpq's variables) |
| `--embedded` | use the private Postgres of this machine |
| `--config FILE` | settings in TOML (default: `/etc/peers/peers.toml`) |
"""
_SHARED: Final = frozenset({"--help", "--database-url", "--embedded", "--config"})
_RUNS_OF_PREDICT: Final = "status"
"""Any command of `peers predict` that is not a run: it declares them all."""
_NOT_RUN: Final = "<!-- not run: a test of its own lets the parser read each example -->"


def page() -> str:
    """Return the page."""
    parts = [notice("the parsers in peers/cli"), _INTRODUCTION]
    for name, parser in _commands():
        parts.append(f"\n## peers {name}\n\n{parser.description}\n")
        parts += [text for group in _groups(parser) if (text := _options(group))]
        if parser.epilog:
            parts.append(f"\n{parser.epilog}\n")
        if parser.examples:
            parts.append("\n".join(["", _NOT_RUN, "```sh", *parser.examples, "```\n"]))
    return "".join(parts).lstrip("\n")


def _commands() -> Iterator[tuple[str, Parser]]:
    modules = cli.load([])
    for group, module in modules.items():
        takes_words = "words" in inspect.signature(module.register).parameters
        for words in ([group], [group, _RUNS_OF_PREDICT]) if group == "predict" else ([group],):
            found = Parser(prog="peers").add_subparsers()
            module.register(found, **({"words": words} if takes_words else {}))
            yield from _leaves("", found)


def _leaves(
    prefix: str, commands: argparse._SubParsersAction[Parser]
) -> Iterator[tuple[str, Parser]]:
    for name, parser in commands.choices.items():
        below = [one for one in _actions(parser) if isinstance(one, argparse._SubParsersAction)]
        if below:
            for each in below:
                yield from _leaves(f"{prefix}{name} ", each)
        else:
            yield prefix + name, parser


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions


def _groups(parser: argparse.ArgumentParser) -> list[argparse._ArgumentGroup]:
    return parser._action_groups


def _options(group: argparse._ArgumentGroup) -> str:
    actions = [one for one in group._group_actions if not _SHARED & set(one.option_strings)]
    if not actions:
        return ""
    title = (group.title or "").replace("positional arguments", "arguments")
    described = f"{group.description}\n\n" if group.description else ""
    rows = [(code(_spelling(action)), _help(action)) for action in actions]
    return (
        f"\n**{title[:1].upper()}{title[1:]}**\n\n{described}{table(('option', 'meaning'), rows)}"
    )


def _spelling(action: argparse.Action) -> str:
    if action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = str(action.metavar or action.dest.upper()) if action.nargs != 0 else ""
    if not action.option_strings:
        return f"[{value} ...]" if action.nargs in ("*", "+") else value
    if isinstance(action, argparse.BooleanOptionalAction):
        return ", ".join(action.option_strings)
    return f"{action.option_strings[-1]} {value}".strip()


def _help(action: argparse.Action) -> str:
    """Return the help text, with what Markdown would take for emphasis or a tag escaped."""
    return (action.help or "").replace("%%", "%").replace("*", r"\*").replace("<", "&lt;")
