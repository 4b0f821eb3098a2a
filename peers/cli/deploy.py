"""`peers deploy`: print where the files for systemd and monitoring are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_SUMMARY: Final = "print the folder with the files for systemd and for monitoring"
_USE: Final = (
    'cp "$(peers deploy systemd)"/*.service "$(peers deploy systemd)"/*.target /etc/systemd/system/'
)


def register(commands: Commands) -> None:
    """Declare `deploy`."""
    parser = commands.add_parser(
        "deploy",
        help=_SUMMARY,
        description=f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}. They are part of the package.",
        epilog=f"Such as: {_USE}",
    )
    parser.add_argument(
        "part", nargs="?", choices=_parts(), help="whose files (default: the folder of all)"
    )
    parser.set_defaults(run=_deploy, parser=parser, accepts=lambda _: False)


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
