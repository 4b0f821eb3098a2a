"""`peers demo`: the demonstration is a guest, imported only when it is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from peers.cli.parser import add_command
from peers.cli.place import settings_of, wants_embedded

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands


def register(commands: Commands, words: list[str]) -> None:
    """Declares `demo`; its own arguments only when it was typed."""
    parser = add_command(
        commands,
        "demo",
        _demo,
        "the main job, end to end, on real input; with nothing configured",
        conflict_handler="resolve",  # it has a --database-url of its own too
    )
    if "demo" in words:
        from peers import demo

        demo.add_arguments(parser)


def _demo(args: argparse.Namespace) -> int:
    """Hands over the database that is configured; without one the demo takes the embedded one."""
    from peers import demo

    settings = settings_of(args)
    if wants_embedded(args, settings):
        args.database_url = None
        os.environ.pop("PEERS_DATABASE_URL", None)
    elif settings.has_database:
        args.database_url = settings.url  # empty: libpq's own variables name it
    return demo.run(args)
