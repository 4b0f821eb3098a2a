"""`peers top`: watch queues, peers, running tasks and dead letters."""

from __future__ import annotations

import io
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, overview, terminal, top_layout
from peers.cli.database import connection_to
from peers.cli.exact_json import written
from peers.cli.limit_table import document_of
from peers.cli.parser import add_command, duration
from peers.cli.place import located
from peers.cli.problems import problems
from peers.cli.sampler import TIMEOUT, Sampler
from peers.database import schema
from peers.errors import ConfigError, DatabaseUnreachable, install_command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from rich.console import Console

    from peers.cli.parser import Commands
    from peers.settings import Settings

_INTERVAL: Final = timedelta(seconds=2)
_INTERVAL_MIN: Final = timedelta(seconds=0.2)
_OLD: Final = timedelta(seconds=5)
_KEYS: Final = "q: quit"
_QUIT: Final = frozenset("qQ")


def register(commands: Commands) -> None:
    """Declare `top`."""
    top = add_command(
        commands,
        "top",
        _top,
        "watch queues, peers, running tasks and dead letters",
        example=("peers top", "peers top --interval 5s", "peers top --json | jq .queues"),
        reads=True,
        epilog="Press q to quit. If the output is not a terminal, it prints the state once. With "
        "--json it prints one document; with --json and --interval, one a line until Ctrl-C. "
        f"Each query is stopped after {TIMEOUT:.0f} seconds, and one that takes long is "
        "repeated less often.",
    )
    top.add_argument(
        "--interval",
        type=duration,
        metavar="DURATION",
        help=f"time between two readings (default: {_INTERVAL.seconds}s)",
    )


def _top(args: argparse.Namespace) -> int:
    interval = _INTERVAL if args.interval is None else args.interval
    if interval < _INTERVAL_MIN:
        args.parser.error(f"--interval must be {output.span(_INTERVAL_MIN)} or more")
    is_live = terminal.is_usable() and not args.json
    console = _console() if is_live else None
    with located(args) as settings:
        with connection_to(settings, args) as connection:  # a wrong URL is an error, not a screen
            schema.require(connection)
            database = connection.info.dbname
        watch = _Watch(args, settings, database, interval)
        if console is not None:
            return watch.draw(console)
        return watch.stream() if args.json and args.interval is not None else watch.once()


class _Watch:
    """Show the state of one database."""

    def __init__(
        self, args: argparse.Namespace, settings: Settings, database: str, interval: timedelta
    ) -> None:
        self._args = args
        self._settings = settings
        self._database = database
        self._interval = interval

    def once(self) -> int:
        """Print the state."""
        changed = threading.Event()
        with self._sampling(changed.set) as sampler:
            changed.wait()
            view = self._view(sampler)
        if view.trouble is not None:
            raise DatabaseUnreachable(view.trouble)
        if self._args.json:
            output.document(self._document(view))
            return 0
        for line in top_layout.lines(view, output.terminal_width()):
            print(line.text.rstrip())
        return 0

    def stream(self) -> int:
        """Print a line of JSON for each reading, until Ctrl-C."""
        changed = threading.Event()
        with self._sampling(changed.set) as sampler:
            while True:
                changed.wait()
                changed.clear()
                text = written(self._document(self._view(sampler)))
                print(" ".join(line.strip() for line in text.split("\n")), flush=True)

    def draw(self, console: Console) -> int:
        """Draw the state on the terminal again and again, until a key quits."""
        with terminal.Terminal() as screen, self._sampling(screen.wake) as sampler:
            while True:
                size = screen.size()
                view = self._view(sampler, keys=_KEYS)
                screen.draw(_painted(console, view, size.columns, size.lines))
                if _QUIT & set(screen.typed()):
                    return 0

    def _sampling(self, changed: Callable[[], None]) -> Sampler:
        return Sampler(
            lambda: connection_to(self._settings, self._args),
            self._interval.total_seconds(),
            changed,
        )

    def _view(self, sampler: Sampler, keys: str = "") -> top_layout.View:
        found, unread = sampler.found(), sampler.unread()
        found["queues"] = overview.queue_rows(found, unread)
        now = time.monotonic()
        ages = {
            part: timedelta(seconds=now - reading.at)
            for part, reading in dict(sampler.readings).items()
        }
        old = {
            part: age
            for part, age in ages.items()
            if age > _OLD + self._interval and part not in unread and sampler.trouble is None
        }
        sentences = problems(self._args, found)
        return top_layout.View(self._database, found, unread, old, sentences, sampler.trouble, keys)

    def _document(self, view: top_layout.View) -> dict[str, Any]:
        any_peer = any(peer["alive"] for peer in view.found["peers"])
        return {
            **overview.without_throughput(view.found),
            "limits": [document_of(limit, any_peer=any_peer) for limit in view.found["limits"]],
            "database": self._database,
            "database_error": view.trouble,
            "unread": dict(view.unread),
            "problems": list(view.problems),
        }


def _console() -> Console:
    """Return what styles the lines. Raises ConfigError without the package rich."""
    try:
        from rich.console import Console
    except ImportError:
        raise ConfigError(
            "`peers top` draws with the package rich, which is not installed",
            f"Install the extra: {install_command('cli')}. `peers status` works without it.",
        ) from None
    return Console(file=io.StringIO(), force_terminal=True, highlight=False)


def _painted(console: Console, view: top_layout.View, columns: int, height: int) -> str:
    """Return the screen as text with control sequences."""
    from rich.text import Text

    console.size = (columns, height)
    with console.capture() as capture:
        for line in top_layout.lines(view, columns, height):
            text = Text(line.text, style=line.style, no_wrap=True, overflow="ellipsis", end="")
            text.truncate(columns, overflow="ellipsis")
            console.print(text, crop=True)
    return capture.get().removesuffix("\n")
