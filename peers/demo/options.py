"""The options of the demo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

URL_VARIABLE: Final = "PEERS_DATABASE_URL"
_MOST_PEERS: Final = 16
_MOST_FILES: Final = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on a parser."""
    add = parser.add_argument
    add("--peers", type=_whole(_MOST_PEERS), default=3, metavar="N",
        help=f"number of peers, 1 to {_MOST_PEERS} (default: 3)")  # fmt: skip
    add("--files", type=_whole(_MOST_FILES), metavar="N",
        help="index N files, picked evenly (default: all)")  # fmt: skip
    add("--source", type=_folder, metavar="DIR",
        help="index the Python files below DIR (default: Python's standard library)")  # fmt: skip
    add("--no-kill", action="store_true", help="do not kill a peer")
    add("--keep", action="store_true",
        help="keep database and peers running until you press Enter or Ctrl-C")  # fmt: skip
    add("--database-url", metavar="URL",
        help=f"database URL (default: {URL_VARIABLE}, or the embedded Postgres)")  # fmt: skip
    add("--json", action="store_true",
        help="print one line of figures on stdout and everything else on stderr")  # fmt: skip


def _whole(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from 1 to {most}, not {text!r}"
            )
        return int(text)

    return parse


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return Path(text).resolve()
