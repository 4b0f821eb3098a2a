"""`peers demo`: the demonstration, which is imported only for this command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from peers.cli.parser import add_command
from peers.cli.place import settings_of, wants_embedded

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands


def register(commands: Commands, words: list[str]) -> None:
    """Declare `demo`, and its own options only if it was typed."""
    parser = add_command(
        commands,
        "demo",
        _demo,
        "run the demo on real input, with nothing configured",
        conflict_handler="resolve",  # it has a --database-url of its own too
    )
    if "demo" in words:
        from peers import demo

        demo.add_arguments(parser)


def _demo(args: argparse.Namespace) -> int:
    """Pass on the configured database; without one, the demo uses the embedded one."""
    from peers import demo

    settings = settings_of(args)
    if wants_embedded(args, settings):
        args.database_url = None
        os.environ.pop("PEERS_DATABASE_URL", None)
    elif settings.has_database:
        args.database_url = settings.url  # empty: libpq's own variables name it
    return demo.run(args)
