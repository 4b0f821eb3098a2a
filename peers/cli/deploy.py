"""`peers deploy`: print where the files for systemd and monitoring are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.cli.parser import add_command
from peers.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_EXAMPLES: Final = (
    'cp "$(peers deploy systemd)"/*.service "$(peers deploy systemd)"/*.target /etc/systemd/system',
    'promtool check rules "$(peers deploy prometheus)"/*.rules.yml',
)


def register(commands: Commands) -> None:
    """Declare `deploy`."""
    parser = add_command(
        commands,
        "deploy",
        _deploy,
        "print the folder with the files for systemd and for monitoring",
        example=_EXAMPLES,
        database=False,
        epilog="They are part of the package.",
    )
    parser.add_argument(
        "part", nargs="?", choices=_parts(), help="whose files (default: the folder of all)"
    )


def _parts() -> list[str]:
    """Return the names of the folders that are shipped."""
    try:
        return sorted(each.name for each in folder().iterdir() if each.is_dir())
    except ConfigError:  # `peers deploy` itself reports it
        return []


def folder(part: str = "") -> Path:
    """Return the folder, inside an installed package or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for place in (package, package.parent):
        found = place / "deploy" / part
        if found.is_dir():
            return found
    raise ConfigError(
        f"the folder deploy/{part} is missing in {package}", "Install the package again."
    )


def _deploy(args: argparse.Namespace) -> int:
    print(folder(args.part or ""))
    return 0
