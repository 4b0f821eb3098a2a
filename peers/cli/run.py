"""`peers run`: one peer, until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers import events, schema
from peers.cli.database import connection_to, located
from peers.cli.parser import add_command, text
from peers.settings import Settings

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_APART: Final = ("database_url", "embedded")  # every command has these
_SHAPES: Final = {
    "app": "MODULE",
    "queues": "NAME=SLOTS,…",
    "worker_threads": "N",
    "worker_max_tasks": "N",
    "worker_max_memory": "BYTES",
    "gpus": "0,1,…",
    "predict_trust": "FOLDER,MODULE,…",
    "log_format": "auto|text|json",
    "log_level": "debug|info|warning|error",
}


def register(commands: Commands) -> None:
    """Declares `run`, with a flag for every setting."""
    parser = add_command(
        commands,
        "run",
        _run,
        "run a peer: SIGTERM or Ctrl-C drains it, a second one stops it now",
    )
    group = parser.add_argument_group("the peer", "Flags win over PEERS_… variables and files.")
    for name, field in Settings.model_fields.items():
        if name not in _APART:
            group.add_argument(
                f"--{name.replace('_', '-')}",
                type=text,
                metavar=_SHAPES.get(name, "DURATION"),
                help=field.description,
            )
    parser.set_defaults(setting_flags=tuple(Settings.model_fields))


def _run(args: argparse.Namespace) -> int:
    from peers.peer import Peer

    with located(args) as settings:
        events.configure(settings.log_format, settings.log_level)
        peer = Peer(settings)
        with connection_to(settings, args) as connection:
            if settings.embedded:
                schema.migrate(connection)
            schema.require(connection)
        return peer.run()
