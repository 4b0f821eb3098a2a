"""`peers completion`: print a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.cli.parser import Parser, add_command
from peers.errors import ConfigError, install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.cli.parser import Commands

_SHELLS: Final = ("bash", "zsh", "fish")
_EPILOGUE: Final = """\
The script is static: it needs neither a database nor your app, and no Python when you press Tab.
Print it again after an upgrade. Put it into this file, whose folder must exist. For bash:
~/.local/share/bash-completion/completions/peers, which the package bash-completion reads. For zsh:
_peers in a folder of $fpath. For fish: ~/.config/fish/completions/peers.fish. A new shell then uses
it. In bash without that package, put the second of these examples into ~/.bashrc.
"""


def register(commands: Commands) -> None:
    """Declare `completion`."""
    parser = add_command(
        commands, "completion", _completion, "print a script that completes commands in a shell",
        example=(
            "peers completion bash > ~/.local/share/bash-completion/completions/peers",
            "source <(peers completion bash)",
        ),
        database=False,
        epilog=_EPILOGUE,
    )  # fmt: skip
    parser.add_argument("shell", choices=_SHELLS, help="the shell")


def _completion(args: argparse.Namespace) -> int:
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """Return the script for a shell. Raises ConfigError without the library that writes it."""
    try:
        import shtab
    except ImportError:
        raise ConfigError(
            "shell completion needs the package shtab", f"Run: {install_command('cli')}"
        ) from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(
            f"this version of shtab does not know {shell}", "Run: pip install --upgrade shtab"
        )
    parser = _every_command()
    for each in _parsers(parser):
        _describe_values(each)
    return str(shtab.complete(parser, shell))


def _every_command() -> Parser:
    """Return the parser with all commands at once, which is for completion only.

    `peers predict` either starts a run or has commands, depending on the next word.
    """
    from peers import cli
    from peers.cli.predict import runs

    parser = cli.parser_for([])
    for name, command in _commands(parser):
        if name == "predict":
            runs.register(command.add_subparsers())
    return parser


def _parsers(parser: Parser) -> Iterator[Parser]:
    yield parser
    for _, command in _commands(parser):
        yield from _parsers(command)


def _commands(parser: Parser) -> Iterator[tuple[str, Parser]]:
    for action in parser.actions():
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - it has no public name
            yield from list(action.choices.items())


def _describe_values(parser: Parser) -> None:
    """Complete the arguments that are paths, and leave no colon in the name of a value.

    A colon ends the name in zsh, which takes what follows for code.
    """
    import shtab

    for action in parser.actions():
        if isinstance(action.metavar, str):
            action.metavar = action.metavar.replace(":", ".")
        forms = str(action.metavar).split("|")
        if action.type is Path or "FILE" in forms:  # --model takes a file, a callable or a URL
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
