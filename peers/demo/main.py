"""The steps of the demo, from the submission to the report."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from peers import cancel_graph_in
from peers.demo import ledger, submit
from peers.demo.processes import LEASE_SECONDS, running_peers
from peers.demo.report import report
from peers.demo.verify import verify
from peers.demo.watch import DemoError, say, watch

if TYPE_CHECKING:
    import argparse

    import psycopg

    from peers.demo.submit import Submitted


def run(
    args: argparse.Namespace, connection: psycopg.Connection[Any], url: str, place: str, psql: str
) -> int:
    """Run the demo and return the exit code.

    0: every task ended, no outcome counted twice, and the killed peer's work was reclaimed. 1: one
    of these is not true, and a sentence on stderr names it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the peers stop too
    say(f"using {place}")
    submitted = _submit(args, connection)
    out = sys.stderr if args.json else sys.stdout
    with TemporaryDirectory() as folder:
        try:
            with running_peers(args.peers, url, submitted.queue, Path(folder)) as peers:
                say(f"{args.peers} peers are starting; their leases last {LEASE_SECONDS} s")
                file = Path(folder, "ledger")
                watch(connection, submitted, peers, file, kill=not args.no_kill)
                figures = verify(connection, submitted, ledger.read(file))
                figures["peers"] = args.peers
                report(out, connection, submitted, figures, psql)
                if args.keep:
                    say("\nDatabase and peers run until you press Enter or Ctrl-C.")
                    with suppress(KeyboardInterrupt):
                        sys.stdin.readline()
        except BaseException:  # Ctrl-C too: no unfinished work stays in the database
            cancel_graph_in(connection, submitted.graph_id)
            raise
    if args.json:
        print(json.dumps(figures), flush=True)
    return _check(figures, kill=not args.no_kill)


def _submit(args: argparse.Namespace, connection: psycopg.Connection[Any]) -> Submitted:
    root = args.source or submit.library()
    files = submit.sources(root, args.files)
    if not files:
        raise DemoError(f"there are no Python files below {root}", "Name a folder with --source.")
    started = time.monotonic()
    submitted = submit.submit(connection, files, root, f"demo-{secrets.token_hex(4)}")
    say(
        f"submitted {submitted.tasks} tasks in one transaction, {time.monotonic() - started:.1f} s:"
        f" {submitted.files} files of {root}, {submitted.packages} packages, one report"
    )
    return submitted


def _check(figures: dict[str, Any], *, kill: bool) -> int:
    """Print each promise that was not kept, and return the exit code."""
    names = ("lost", "cancelled", "duplicates", "early")
    broken = [f"{figures[name]} tasks: {name}" for name in names if figures[name]]
    if kill and not figures["reclaimed"]:
        broken.append(
            "no lease was reclaimed: the work was over before a peer could be killed. Use more "
            "--files, or --no-kill"
        )
    for sentence in broken:
        say(f"peers: {sentence}")
    return 1 if broken else 0
