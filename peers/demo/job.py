"""The demo from its first step to its last."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg

from peers import PeersError
from peers.demo import figures, ledger, submit
from peers.demo.database import Database, open_database
from peers.demo.errors import DemoError
from peers.demo.fleet import Fleet
from peers.demo.options import Options
from peers.demo.show import Progress
from peers.demo.summary import Summary
from peers.demo.watch import Watch
from peers.demo.work import work
from peers.embedded import EmbeddedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from peers.demo.figures import Figures
    from peers.demo.kill import Killed
    from peers.demo.submit import Submitted

_FAILED, _USAGE, _UNREACHABLE, _INTERRUPTED = 1, 2, 3, 130


def play(args: argparse.Namespace) -> int:
    """What `peers.demo.run` does."""
    options = Options.of(args)
    if options.kill and options.peers == 1:
        _complain(
            "a single peer cannot be killed: who would take over? Use --no-kill, or --peers 2"
        )
        return _USAGE
    try:
        with _terminable(), open_database(options.url) as database, TemporaryDirectory() as folder:
            return _play(options, database, Path(folder))
    except psycopg.OperationalError as error:
        _complain(f"the database cannot be reached: {error}")
        return _UNREACHABLE
    except PeersError as error:
        _complain(str(error))
        return error.exit_code
    except (DemoError, EmbeddedError, psycopg.Error) as error:
        _complain(str(error))
        return _FAILED
    except KeyboardInterrupt:
        _complain("stopped, and nothing is left behind")
        return _INTERRUPTED


def _play(options: Options, database: Database, folder: Path) -> int:
    progress = Progress()
    progress.say(database.sentence)
    root = options.source or submit.library()
    submitted = _submit(options, database, root, progress)
    watch = Watch(database.connection, submitted)
    try:
        with Fleet(options.peers, database.url, submitted.queue, folder) as fleet:
            killed = work(fleet, watch, progress, kill=options.kill)
            entries = ledger.read(fleet.ledger)
            found = figures.gather(database.connection, submitted, entries, options.peers)
            out = sys.stderr if options.json else sys.stdout
            summary = Summary(out, database, submitted, root)
            summary.report()
            summary.dead_letters()
            summary.figures(found, killed)
            summary.where_to_look(options.keep)
            if options.json:
                print(json.dumps(asdict(found)), flush=True)
            if options.keep:
                _wait_for_enter(progress)
    except KeyboardInterrupt:
        progress.say("the peers have been stopped; cancelling what has not run")
        raise
    finally:
        with suppress(psycopg.Error):
            watch.cancel_rest()
    complaints = _complaints(found, killed, options)
    for complaint in complaints:
        _complain(complaint)
    return _FAILED if complaints else 0


def _submit(options: Options, database: Database, root: Path, progress: Progress) -> Submitted:
    files = submit.sources(root, options.files)
    if not files:
        raise DemoError(f"there are no Python files below {root}; name a folder with --source")
    begun = time.monotonic()
    queue = f"demo-{secrets.token_hex(4)}"
    submitted = submit.submit(database.connection, files, root, queue)
    progress.say(
        f"submitted {submitted.total} tasks in one transaction, {time.monotonic() - begun:.1f} s: "
        f"{submitted.files} files of {root}, {submitted.packages} packages, one report"
    )
    return submitted


def _complaints(found: Figures, killed: Killed | None, options: Options) -> list[str]:
    """What is not as promised, a sentence each."""
    complaints = []
    if found.lost or found.cancelled:
        complaints.append(f"{found.lost} tasks were lost and {found.cancelled} cancelled")
    if found.duplicates:
        complaints.append(f"{found.duplicates} outcomes came twice, or without a run")
    if found.early:
        complaints.append(f"{found.early} children started before a parent had ended")
    if options.kill and killed is None:
        complaints.append(
            "nothing could be reclaimed: the work was over before a peer that held some could be "
            "killed. Give it more --files, or use --no-kill"
        )
    elif killed is not None and not found.reclaimed:
        complaints.append(f"no lease of the killed peer {killed.member.number} was reclaimed")
    return complaints


def _wait_for_enter(progress: Progress) -> None:
    progress.say("\nDatabase and peers run until you press Enter or Ctrl-C.")
    with suppress(KeyboardInterrupt):
        sys.stdin.readline()


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(sentence: str) -> None:
    print(f"peers demo: {sentence}", file=sys.stderr, flush=True)
