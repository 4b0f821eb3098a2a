"""The demo: index this machine's Python library on several peers, one of which gets killed.

`handlers` is the app, and an example to copy from; the other modules set the stage.
"""

# Workers import this package to get at the handlers, so it loads nothing else before it is asked.

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `peers demo` on a parser."""
    from peers.demo import options

    options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Play the demo as those options say; gives the exit code.

    0: every task ended, no outcome came twice, and the killed peer's work was reclaimed. 1: not
    so, and a sentence on stderr says what is wrong. 2: options that exclude each other. 3: the
    database cannot be reached. 130: stopped by Ctrl-C.
    """
    from peers.demo.job import play

    return play(args)
