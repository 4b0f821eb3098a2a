"""The options of the demo."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS_MAX = 16
FILES_MAX = 100_000
URL_VARIABLE = "PEERS_DATABASE_URL"


@dataclass(frozen=True)
class Options:
    """What is to be played. `url`: None is the embedded database, "" is left to libpq."""

    peers: int
    files: int | None
    source: Path | None
    kill: bool
    keep: bool
    json: bool
    url: str | None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """The options as parsed."""
        return cls(
            peers=args.peers,
            files=args.files,
            source=args.source,
            kill=not args.no_kill,
            keep=args.keep,
            json=args.json,
            url=args.database_url if args.database_url is not None else _from_environment(),
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on a parser."""
    parser.add_argument(
        "--peers", type=_whole(1, PEERS_MAX), default=3, metavar="N",
        help=f"how many peers share the work, 1 to {PEERS_MAX} (default 3)",
    )  # fmt: skip
    parser.add_argument(
        "--files", type=_whole(1, FILES_MAX), metavar="N",
        help="index N files, picked evenly (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--source", type=_folder, metavar="DIR",
        help="index the Python files below DIR (default: this Python's standard library)",
    )  # fmt: skip
    parser.add_argument("--no-kill", action="store_true", help="let all peers live")
    parser.add_argument(
        "--keep", action="store_true",
        help="leave database and peers running until Enter or Ctrl-C, to look around",
    )  # fmt: skip
    parser.add_argument(
        "--database-url", metavar="URL",
        help=f"the database to use (default: {URL_VARIABLE}, else a private one of this machine)",
    )  # fmt: skip
    parser.add_argument(
        "--json",
        action="store_true",
        help="one line of figures on stdout, everything else on stderr",
    )


def _from_environment() -> str | None:
    return os.environ.get(URL_VARIABLE) or None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, not {text!r}"
            )
        return int(text)

    return parse


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return Path(text).resolve()
