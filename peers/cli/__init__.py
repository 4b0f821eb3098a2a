"""The command line: find the command, run it, and turn errors into a sentence and an exit code.

Exit codes: 0 done, 1 failed (of status and check: something is wrong), 2 wrong usage or a refused
value, 3 database unreachable, 4 not found, 5 an output that lacks more rows than `predict
--max-dead` allows, 78 bad configuration; 130 after Ctrl-C, 141 when nobody reads the output any
more.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output
from peers.cli.parser import Parser, version

if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE: Final = 2
_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141

GROUPS: Final = {
    "demo": ("demo",),
    "run": ("run",),
    "admin": ("migrate", "check", "config"),
    "submit": ("submit",),
    "status": ("status",),
    "top": ("top",),
    "doctor": ("doctor",),
    "explain": ("explain",),
    "log": ("log",),
    "peek": ("peek",),
    "task_list": ("tasks",),
    "cancel": ("cancel",),
    "tasks": ("change", "pause", "resume"),
    "actions": ("actions",),
    "prune": ("prune",),
    "dead": ("dead",),
    "graph": ("graph",),
    "limit": ("limit",),
    "schedule": ("schedule",),
    "db": ("db",),
    "completion": ("completion",),
    "deploy": ("deploy",),
    "predict": ("predict",),
}
"""The modules and their commands. Only the module of the typed command is imported."""

_BY_WORDS: Final = ("predict",)
"""The modules that declare different options for different words on the command line."""

_EPILOGUE: Final = """\
Try it:                peers demo
A database:            export PEERS_DATABASE_URL=postgresql://user@host/database; peers migrate
A peer:                peers run --app shop.tasks
A task:                peers submit thumbs.make path=/srv/a.png
See what is happening: peers status
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage and --help raise SystemExit."""
    words = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # the terminal may not have all characters of a task
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        from peers.cli.failures import explained  # it is slow to import

        ours = explained(error)
        if ours is None:
            raise
        output.complain(ours)
        if isinstance(error, OSError):
            _drop_output()
        return ours.exit_code
    return code


def load(words: Sequence[str]) -> dict[str, Any]:
    """Import the module of the command that was typed, or all of them if none was.

    --version needs none of them.
    """
    if words[:1] == ["--version"]:
        return {}
    chosen = [group for group, names in GROUPS.items() if words[:1] and words[0] in names]
    return {group: importlib.import_module(f"peers.cli.{group}") for group in chosen or GROUPS}


def _dispatch(words: list[str]) -> int:
    whole = parser_for(words)
    if words[:1] == ["graph"]:
        from peers.cli.graph_draw import with_verb  # the command has imported it

        words = with_verb(words)
    args, rest = whole.parse_known_args(words)
    if "run" not in args:
        whole.print_help(sys.stderr)
        return _USAGE
    args.rest = rest
    unknown = [word for word in rest if not args.accepts(word)]
    if unknown:
        args.parser.error(f"unknown argument: {' '.join(unknown)}")
    try:
        code: int = args.run(args)
    except Exception as error:
        from peers.errors import PeersError  # imported late, because it is slow

        if isinstance(error, PeersError):
            from peers.cli.wording import in_words_of_the_shell

            in_words_of_the_shell(error, args)
        raise
    return code


def parser_for(words: list[str]) -> Parser:
    """Return the parser for the command that was typed, or for all commands if none was."""
    whole = Parser(
        prog="peers",
        description="A leaderless task scheduler that lives in Postgres.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=version(), help="print the version")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")
    for group, module in load(words).items():
        options = {"words": words} if group in _BY_WORDS else {}
        module.register(commands, **options)
    return whole


def _drop_output() -> None:
    """Keep the interpreter's last flush from failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
