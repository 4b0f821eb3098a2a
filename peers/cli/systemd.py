"""`peers systemd`: print where the systemd units are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_SUMMARY: Final = "print the folder with the systemd units and an example of their settings"
_USE: Final = """\
cp "$(peers systemd)"/peers@.service "$(peers systemd)"/peers.target /etc/systemd/system/
"""


def register(commands: Commands) -> None:
    """Declare `systemd`."""
    parser = commands.add_parser(
        "systemd",
        help=_SUMMARY,
        description=f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}.",
        epilog=f"Such as: {_USE}",
    )
    parser.set_defaults(run=_systemd, parser=parser, accepts=lambda _: False)


def folder() -> Path:
    """Return the folder, inside an installed package or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for place in (package, package.parent):
        if (place / "deploy" / "systemd").is_dir():
            return place / "deploy" / "systemd"
    raise ConfigError(f"the systemd units are missing in {package}", "Install the package again.")


def _systemd(_args: argparse.Namespace) -> int:
    print(folder())
    return 0
