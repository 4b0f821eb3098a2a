"""Run one peer until it is stopped: `peers run`."""

from __future__ import annotations

import logging
import os
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, get_args

from peers import events
from peers.cli.argument_types import text
from peers.cli.output import readable
from peers.cli.parser import add_command
from peers.cli.place import located, settings_of
from peers.cli.summary import Summary
from peers.errors import DatabaseUnreachable, NoConnectionFree
from peers.logs import log_output
from peers.pool.environment import Environment
from peers.pool.fork_server_start import ForkServerOptions, started_early
from peers.settings import Settings, reference

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from peers.cli.parser import Commands
    from peers.settings import SettingReference

_OF_EVERY_COMMAND: Final = ("database_url", "embedded")
_REPEATABLE: Final = ("worker_env",)


def register(commands: Commands) -> None:
    """Declare `run`, with a flag for every setting."""
    parser = add_command(
        commands,
        "run",
        _run,
        "run a peer: SIGTERM or Ctrl-C drains it, a second one stops it now",
        example="peers run --app shop.tasks --queues default=4,mail=16",
    )
    group = parser.add_argument_group("the peer", "Flags win over PEERS_… variables and files.")
    for setting in reference():
        if setting.name in _OF_EVERY_COMMAND:
            continue
        several: dict[str, Any] = {"action": "append"} if setting.name in _REPEATABLE else {}
        group.add_argument(
            setting.flag, type=text, metavar=setting.placeholder, help=_help(setting), **several
        )
    parser.set_defaults(setting_flags=tuple(Settings.model_fields))


def _help(setting: SettingReference) -> str:
    bounds = f"{setting.bounds}; " if setting.bounds else ""
    repeat = "; repeat the flag for several" if setting.name in _REPEATABLE else ""
    text = f"{setting.description}{repeat} ({bounds}default: {setting.default})"
    return text.replace("%", "%%")


def _run(args: argparse.Namespace) -> int:
    """Run the peer. If it fails, the log says why in its last line, and never blocks."""
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
    # Report settings that cannot be read in the requested form, if there is one.
    form = str(args.log_format or os.environ.get("PEERS_LOG_FORMAT", "")).lower()
    forms: tuple[log_output.Form, ...] = get_args(log_output.Form)
    log_output.configure(next((f for f in forms if f == form), "auto"), write_timeout=0.0)
    settings = settings_of(args)
    log_output.configure(settings.log_format, settings.log_level, write_timeout=0.0)
    # Its warnings are about late timers, which are harmless.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _work(args: argparse.Namespace) -> int:
    with located(args) as settings, _importing(settings):
        from peers.peer.loop import Peer  # takes long to import

        peer = Peer(settings)
        _check_schema(settings, args)
        return peer.run()


def _check_schema(settings: Settings, args: argparse.Namespace) -> None:
    """Refuse a database with another schema.

    Wait for a free connection, and for a database that was there and is lost. One that was not
    there is an error, because the URL may be wrong.
    """
    from psycopg import Error

    from peers.cli.database import connection_to
    from peers.database import schema
    from peers.database.backoff import Backoff
    from peers.database.connection import is_connection_lost, report_wait

    backoff, was_there = Backoff(base=1.0), False
    while True:
        try:
            with connection_to(settings, args, pooled=not settings.embedded) as connection:
                was_there = True
                if settings.embedded:
                    schema.migrate(connection)
                schema.require(connection)
            return
        except (DatabaseUnreachable, Error) as error:
            was_there = was_there or isinstance(error, Error | NoConnectionFree)
            if not was_there or not is_connection_lost(error):
                raise
            wait = backoff.next()
            report_wait(error, wait)
            time.sleep(wait)


def _importing(settings: Settings) -> AbstractContextManager[None]:
    """Start to import the app, which takes longest, while the peer itself is loaded."""
    if settings.app is None or not settings.preload:
        return nullcontext()
    log = (settings.log_format, settings.log_level)
    return started_early(ForkServerOptions(settings.app, log, Environment.of(settings).of_slot(0)))
