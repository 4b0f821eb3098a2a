"""The demo: index this machine's Python library on several peers and kill one of them halfway.

`handlers` is the app and `submit` its graph: two files to copy from. The rest runs them.
"""

# Workers import this package to reach the handlers, so it imports nothing else by itself.

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `peers demo`."""
    from peers.demo import options

    options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo and return the exit code.

    0: every task ended, no outcome counted twice, and the killed peer's work was reclaimed. 1: one
    of these is not true, and a sentence on stderr names it. 2: the options contradict each other.
    3: the database cannot be reached. 130: stopped by Ctrl-C.
    """
    from peers.demo.main import run

    return run(args)
