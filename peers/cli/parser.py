"""Declare commands: their help, their examples, and the options that all of them have."""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from peers.cli.argument_types import text
from peers.types import CONTRACT_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # argparse has no public name for what add_subparsers() returns
    Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001
    Command: TypeAlias = Callable[[argparse.Namespace], int]

_USAGE: Final = 2


class Parser(argparse.ArgumentParser):
    """Print usage errors like all other errors; do not allow abbreviated options.

    The help ends with the examples, each on a line of its own that can be copied.
    """

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.examples = tuple(examples)

    def format_help(self) -> str:
        """Return the help with the examples, which are not wrapped."""
        text = super().format_help()
        if self.examples:
            title = "example" if len(self.examples) == 1 else "examples"
            text += "".join([f"\n{title}:\n", *(f"  {each}\n" for each in self.examples)])
        return text

    def actions(self) -> list[argparse.Action]:
        """Return the declared arguments and commands."""
        return list(self._actions)

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        self.exit(_USAGE, f"peers: {message}\nhint: `{self.prog} --help` shows how.\n")


def version() -> str:
    """Return the version of the package and of the SQL contract that it uses."""
    try:
        number = importlib.metadata.version("peers")
    except importlib.metadata.PackageNotFoundError:
        number = "(not installed)"
    return f"peers {number}, contract version {CONTRACT_VERSION}"


def add_command(
    commands: Commands,
    name: str,
    run: Command,
    summary: str,
    *,
    example: str | Sequence[str] = (),
    reads: bool = False,
    database: bool = True,
    accepts: Callable[[str], bool] = lambda _: False,
    **options: Any,
) -> Parser:
    """Declare a command with the options that all commands have; `reads` adds --json.

    `example` is one command line, or several, that the help shows as they are. Every command needs
    one. A command without a `database` does not get the options that name one. Words that match no
    argument go to `args.rest` if `accepts` allows them, and are errors if not.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        examples=_several(example),
        **options,
    )
    parser.set_defaults(
        run=run,
        parser=parser,
        accepts=accepts,
        command=parser.prog,
        setting_flags=("database_url", "embedded"),
    )
    if reads:
        parser.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    if database:
        _add_place(parser)
    return parser


def _several(example: str | Sequence[str]) -> Sequence[str]:
    return [example] if isinstance(example, str) else example


def _add_place(parser: Parser) -> None:
    group = parser.add_argument_group("database")
    place = group.add_mutually_exclusive_group()
    place.add_argument(
        "--database-url",
        type=text,
        metavar="URL",
        help="database URL (default: PEERS_DATABASE_URL)",
    )
    place.add_argument(
        "--embedded",
        action="store_true",
        default=None,
        help="use the embedded Postgres",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file in TOML (default: /etc/peers/peers.toml)",
    )


def add_group(
    commands: Commands, name: str, summary: str, *, example: str | Sequence[str] = ()
) -> Commands:
    """Declare a command that only has subcommands. Its example shows the one used most."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        examples=_several(example),
    )
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="which")


def program() -> str:
    """Return how to call this command line: its path, if `peers` would not find it."""
    typed = sys.argv[0]
    if Path(typed).name != "peers":  # such as `python -m peers`
        return "peers"
    found = shutil.which("peers")
    if found is not None and Path(found).resolve() == Path(typed).resolve():
        return "peers"
    return shlex.quote(typed)


def advice(args: argparse.Namespace, words: str) -> str:
    """Return a command to type next, on the same database, without its password."""
    place = ["--embedded"] if args.embedded else []
    if args.database_url is not None:
        from peers.settings import values  # it is slow to import

        place += ["--database-url", values.redact(args.database_url)]
    if args.config is not None:
        place += ["--config", str(args.config)]
    return " ".join([f"{program()} {words}", *map(shlex.quote, place)])
