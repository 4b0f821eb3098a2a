"""`peers run`: run one peer until it is stopped."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, get_args

from peers import events
from peers.cli.output import readable
from peers.cli.parser import add_command, text
from peers.cli.place import located, settings_of
from peers.cli.summary import Summary
from peers.logs import log_output
from peers.pool.environment import Environment
from peers.pool.fork_server_start import ForkServerOptions, started_early
from peers.settings import Settings

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from peers.cli.parser import Commands

_APART: Final = ("database_url", "embedded")  # every command has these
_SHAPES: Final = {
    "app": "MODULE",
    "queues": "NAME=SLOTS,…",
    "preload": "on|off",
    "worker_threads": "N",
    "worker_max_tasks": "N",
    "worker_max_memory": "BYTES",
    "gpus": "0,1,…",
    "predict_trust": "FOLDER,MODULE,…",
    "log_format": "auto|text|json",
    "log_level": "debug|info|warning|error",
}


def register(commands: Commands) -> None:
    """Declare `run`, with a flag for every setting."""
    parser = add_command(
        commands,
        "run",
        _run,
        "run a peer (SIGTERM or Ctrl-C drains it, a second one stops it at once)",
    )
    group = parser.add_argument_group(
        "the peer", "Options override PEERS_… variables, which override files."
    )
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
    """Run the peer; if it fails, log the error as its last line."""
    try:
        _open_log(args)
        with Summary():
            return _work(args)
    except Exception as error:  # noqa: BLE001  # every error is logged
        from peers.cli.failures import explained

        ours = explained(error)
        if ours is None:
            events.peer_failed(
                error=f"this is a bug in Peers: {error!r}", hint=None, exc_info=error
            )
            return 1
        hint = ours.hint and readable(ours.hint).rstrip()
        log_output.last_words(readable(ours.message), hint)
        return ours.exit_code


def _open_log(args: argparse.Namespace) -> None:
    # Errors in the settings are logged in the format that was asked for, if any was.
    asked = str(args.log_format or os.environ.get("PEERS_LOG_FORMAT", "")).lower()
    forms: tuple[log_output.Form, ...] = get_args(log_output.Form)
    log_output.configure(next((f for f in forms if f == asked), "auto"), patience=0.0)
    settings = settings_of(args)
    log_output.configure(settings.log_format, settings.log_level, patience=0.0)
    # It warns about timers that are late, which does no harm.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _work(args: argparse.Namespace) -> int:
    with located(args) as settings, _importing(settings):
        # these are slow to import
        from peers.cli.database import connection_to
        from peers.database import schema
        from peers.peer.loop import Peer

        peer = Peer(settings)
        with connection_to(settings, args, pooled=False) as connection:
            if settings.embedded:
                schema.migrate(connection)
            schema.require(connection)
        return peer.run()


def _importing(settings: Settings) -> AbstractContextManager[None]:
    """Import the app, which takes longest, while the peer itself is loaded."""
    if settings.app is None or not settings.preload:
        return nullcontext()
    log = (settings.log_format, settings.log_level)
    return started_early(ForkServerOptions(settings.app, log, Environment.of(settings).of_slot(0)))
