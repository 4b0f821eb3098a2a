"""The options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli.argument_types import positive, text

if TYPE_CHECKING:
    from peers.cli.parser import Parser


def add_limit(parser: Parser, default: int) -> None:
    """Declare --limit of a command that lists something."""
    parser.add_argument(
        "--limit",
        type=positive,
        default=default,
        metavar="N",
        help=f"show at most N (default: {default})",
    )


def add_reason(parser: Parser) -> None:
    """Declare --reason of a command that writes peers.action."""
    parser.add_argument("--reason", type=text, metavar="TEXT", help="why; `peers actions` shows it")


def add_dry_run(parser: Parser) -> None:
    """Declare --dry-run of a command that changes tasks."""
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and change nothing"
    )
