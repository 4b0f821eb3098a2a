"""What all commands share: how they are declared, and the types of their arguments."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from peers.cli.exact_json import TooDeepError, exact
from peers.spans import timedelta_of
from peers.types import CONTRACT_VERSION, NAME_MAX_LENGTH
from peers.version import package_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # argparse has no public name for what add_subparsers() returns
    Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001
    Command: TypeAlias = Callable[[argparse.Namespace], int]

TIME_FORM: Final = "ISO 8601; without an offset: in this machine's time zone"

_USAGE: Final = 2
_WRONG_CHOICE: Final = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)", re.DOTALL)
_UNKNOWN_OPTION: Final = re.compile(r"unknown argument: (--[^ =]+)")
_WORD: Final = re.compile(r"[-\w]+")
_BIGINT_MAX: Final = (1 << 63) - 1


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
        near = "".join(f"Did you mean {word}? " for word in self._nearest(message))
        self.exit(_USAGE, f"peers: {message}\nhint: {near}`{self.prog} --help` shows how.\n")

    def _nearest(self, message: str) -> list[str]:
        """Return the word that a wrong one in a message comes near to, if there is one."""
        if choice := _WRONG_CHOICE.search(message):
            return get_close_matches(choice[1], _WORD.findall(choice[2]), 1)
        if option := _UNKNOWN_OPTION.search(message):
            known = [string for action in self._actions for string in action.option_strings]
            return get_close_matches(option[1], known, 1)
        return []


def version() -> str:
    """Return the version of the package and of the SQL contract that it uses."""
    return f"peers {package_version() or '(not installed)'}, contract version {CONTRACT_VERSION}"


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


def add_reason(parser: argparse.ArgumentParser, *, dry_run: bool = False) -> None:
    """Add the options of a command that writes peers.action."""
    parser.add_argument(
        "--reason",
        type=text,
        metavar="TEXT",
        help="why; `peers actions` shows it",
    )
    if dry_run:
        parser.add_argument(
            "--dry-run", action="store_true", help="only say what the command would do"
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


# -------------------------------------------------------------------------- types of arguments


def text(value: str) -> str:
    """Return the text; refuse an empty one, such as an unset shell variable."""
    if not value:
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def name(value: str) -> str:
    """Return the name of a kind, queue or graph."""
    if not 1 <= len(value) <= NAME_MAX_LENGTH:
        raise argparse.ArgumentTypeError(
            f"must have 1 to {NAME_MAX_LENGTH} characters, not {len(value)}"
        )
    return value


def task_id(value: str) -> int:
    """Return a task id."""
    if not value.isdecimal() or not 1 <= int(value) <= _BIGINT_MAX:
        raise argparse.ArgumentTypeError(f'a task id is a number from 1 on, not "{value}"')
    return int(value)


def graph_id(value: str) -> int:
    """Return the id of a graph."""
    if not value.isdecimal() or not 1 <= int(value) <= _BIGINT_MAX:
        raise argparse.ArgumentTypeError(f'a graph id is a number from 1 on, not "{value}"')
    return int(value)


def positive(value: str) -> int:
    """Return a number of 1 or more."""
    if not value.isdecimal() or not 1 <= int(value) <= _BIGINT_MAX:
        raise argparse.ArgumentTypeError(f'must be a number of 1 or more, not "{value}"')
    return int(value)


def task_ids(value: str) -> list[int]:
    """Return task ids that are separated by commas."""
    return [task_id(part.strip()) for part in value.split(",")]


def duration(value: str) -> timedelta:
    """Return a duration, such as "90s", "1h30m" or "1 hour"."""
    try:
        return timedelta_of(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{error}, not "{value}"') from None


def instant(value: str) -> datetime:
    """Return an ISO 8601 time, in this machine's time zone unless it names another."""
    try:
        return datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f'must be a time such as "2026-11-23T18:00" or "2026-11-23T17:00Z", not "{value}"'
        ) from None


def json_object(value: str) -> dict[str, Any]:
    """Return a JSON object whose numbers stay as they are written."""
    try:
        found = exact(value)
    except (ValueError, TooDeepError) as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('must be a JSON object such as {"path": "/srv/a.png"}')
    return found


def key_values(args: argparse.Namespace) -> dict[str, object]:
    """Return the words key=value of a command. A value is JSON, or a string if it is not."""
    pairs: dict[str, object] = {}
    for word in args.rest:
        key, equals, value = word.partition("=")
        if not key or not equals:
            args.parser.error(f'"{word}" is not key=value')
        if key in pairs:
            args.parser.error(f'"{key}" is given twice')
        try:
            pairs[key] = exact(value)
        except ValueError:
            pairs[key] = value
        except TooDeepError as error:
            args.parser.error(f'the value of "{key}" cannot be read: {error}')
    return pairs
