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

import psycopg

from peers import Client, PeersError
from peers.demo import ledger, submit
from peers.demo.processes import LEASE_SECONDS, running_peers
from peers.demo.report import report
from peers.demo.verify import verify
from peers.demo.watch import DemoError, say, watch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from peers.demo.submit import Submitted


def run(
    args: argparse.Namespace,
    connection: psycopg.Connection[Any],
    url: str,
    place: str,
    advised: Callable[[str], str],
) -> int:
    """Run the demo and return the exit code.

    0: every task ended, no outcome counted twice, and the killed peer's work was reclaimed. 1: one
    of these is not true, and a sentence on stderr names it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the peers stop too
    say(f"using {place}")
    queue = f"demo-{secrets.token_hex(4)}"
    try:
        figures = _play(args, connection, url, queue, advised)
    except BaseException:  # Ctrl-C too: no unfinished work stays in the database
        _cancel_rest(url, queue, advised)
        raise
    if args.json:
        print(json.dumps(figures), flush=True)
    return _check(figures, kill=not args.no_kill)


def _play(
    args: argparse.Namespace,
    connection: psycopg.Connection[Any],
    url: str,
    queue: str,
    advised: Callable[[str], str],
) -> dict[str, Any]:
    submitted = _submit(args, connection, queue)
    out = sys.stderr if args.json else sys.stdout
    with (
        TemporaryDirectory() as folder,
        running_peers(args.peers, url, queue, Path(folder)) as peers,
    ):
        say(f"{args.peers} peers are starting; their leases last {LEASE_SECONDS} s")
        file = Path(folder, "ledger")
        watch(connection, submitted, peers, file, kill=not args.no_kill)
        figures = verify(connection, submitted, ledger.read(file))
        figures["peers"] = args.peers
        report(out, connection, submitted, figures, advised("db psql"))
        if args.keep:
            say("\nDatabase and peers run until you press Enter or Ctrl-C.")
            with suppress(KeyboardInterrupt):
                sys.stdin.readline()
    return figures


def _cancel_rest(url: str, queue: str, advised: Callable[[str], str]) -> None:
    """Cancel what is left in the queue. The demo's own connection may be why it has ended."""
    try:
        with Client(url, application_name="peers demo") as client:
            client.cancel_tasks(queue=queue, reason="the demo was stopped")
    except (PeersError, psycopg.Error) as error:
        say(f"peers: the tasks of the demo were not cancelled: {error}")
        say(f"hint: `{advised(f'cancel --queue {queue}')}` cancels them.")


def _submit(args: argparse.Namespace, connection: psycopg.Connection[Any], queue: str) -> Submitted:
    root = args.source or submit.library()
    files = submit.sources(root, args.files)
    if not files:
        raise DemoError(f"there are no Python files below {root}", "Name a folder with --source.")
    started = time.monotonic()
    submitted = submit.submit(connection, files, root, queue)
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
