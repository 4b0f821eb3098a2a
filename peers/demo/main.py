"""The steps of the demo, from the database to the report."""

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

from peers import PeersError
from peers.demo import ledger, submit
from peers.demo.database import Database, open_database
from peers.demo.processes import LEASE_SECONDS, running_peers
from peers.demo.report import report
from peers.demo.verify import verify
from peers.demo.watch import DemoError, say, watch
from peers.embedded import EmbeddedError

if TYPE_CHECKING:
    import argparse

    from peers.demo.submit import Submitted

_FAILED, _USAGE, _UNREACHABLE, _INTERRUPTED = 1, 2, 3, 130


def run(args: argparse.Namespace) -> int:
    """Run the demo and return its exit code."""
    if args.peers == 1 and not args.no_kill:
        return _fail(
            "nobody could take over from a single peer: use --no-kill or --peers 2", _USAGE
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the peers stop too
    try:
        with open_database(args.database_url) as database:
            return _run(args, database)
    except psycopg.OperationalError as error:
        return _fail(f"the database cannot be reached: {error}", _UNREACHABLE)
    except PeersError as error:
        return _fail(str(error), error.exit_code)
    except (DemoError, EmbeddedError, psycopg.Error) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped; all peers have ended", _INTERRUPTED)


def _run(args: argparse.Namespace, database: Database) -> int:
    say(database.sentence)
    submitted = _submit(args, database)
    try:
        with (
            TemporaryDirectory() as folder,
            running_peers(args.peers, database.url, submitted.queue, Path(folder)) as peers,
        ):
            say(f"{args.peers} peers are starting; their leases last {LEASE_SECONDS} s")
            file = Path(folder, "ledger")
            watch(database.connection, submitted, peers, file, kill=not args.no_kill)
            figures = verify(database.connection, submitted, ledger.read(file))
            figures["peers"] = args.peers
            report(sys.stderr if args.json else sys.stdout, database, submitted, figures)
            if args.keep:
                say("\nDatabase and peers run until you press Enter or Ctrl-C.")
                with suppress(KeyboardInterrupt):
                    sys.stdin.readline()
    finally:
        with suppress(psycopg.Error):  # after Ctrl-C: no unfinished work stays in the database
            database.connection.execute("select peers.cancel_graph(%s)", [submitted.graph_id])
    if args.json:
        print(json.dumps(figures), flush=True)
    return _check(figures, kill=not args.no_kill)


def _submit(args: argparse.Namespace, database: Database) -> Submitted:
    root = args.source or submit.library()
    files = submit.sources(root, args.files)
    if not files:
        raise DemoError(f"there are no Python files below {root}; name a folder with --source")
    started = time.monotonic()
    submitted = submit.submit(database.connection, files, root, f"demo-{secrets.token_hex(4)}")
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
    return max([0, *map(_fail, broken)])


def _fail(sentence: str, exit_code: int = _FAILED) -> int:
    say(f"peers demo: {sentence}")
    return exit_code
