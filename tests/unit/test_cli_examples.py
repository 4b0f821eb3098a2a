"""Every command has an example in its help, which its parser takes."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from peers import cli
from peers.cli.graph_draw import with_verb
from peers.cli.parser import Parser, add_command

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREDICT_RUNS = ["predict", "status"]
"""The words for which `peers predict` declares the commands of its runs."""
_LINE = re.compile(r"(?:^|[$<]\()peers ([^|<>&;)]*)")


def parsers(words: list[str]) -> Iterator[tuple[str, Parser]]:
    """Return every command below these words, groups included."""
    yield from _below(cli.parser_for(words))


def _below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Parser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                assert isinstance(below, Parser)
                yield below.prog, below
                yield from _below(below)


COMMANDS = dict([*parsers(_PREDICT_RUNS), *parsers([])])


def command_lines(example: str) -> list[list[str]]:
    """Return the words of each `peers` in an example, without what its shell would do."""
    lines = [shlex.split(found) for found in _LINE.findall(example)]
    return [with_verb(words) if words[:1] == ["graph"] else words for words in lines]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_that_its_parser_takes(name: str) -> None:
    """What the help shows can be typed, and is about this command."""
    command = COMMANDS[name]
    assert command.examples, f"{name} needs example=…"
    for example in command.examples:
        lines = command_lines(example)
        assert any(["peers", *words][: len(name.split())] == name.split() for words in lines), (
            example
        )
        for words in lines:
            args, rest = cli.parser_for(words).parse_known_args(words)
            assert "run" in args
            assert all(args.accepts(word) for word in rest), example
            assert len(example) <= 100, example


def test_the_help_ends_with_the_examples_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A long one is not wrapped, so that it can be copied."""
    long = "peers a " + "--wide 'x y' " * 20
    parser = Parser(prog="peers")
    add_command(parser.add_subparsers(), "a", lambda _: 0, "do a", example=(long, "peers a | cat"))
    with pytest.raises(SystemExit):
        parser.parse_args(["a", "--help"])
    assert capsys.readouterr().out.endswith(f"\nexamples:\n  {long}\n  peers a | cat\n")
