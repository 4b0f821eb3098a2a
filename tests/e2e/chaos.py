"""Run a random graph while peers are killed and their backends terminated.

    python -m tests.e2e.chaos [--tasks 10000] [--seed N] [--every SECONDS] [--broken-fence]

A random one of three peers is killed up to five times a second, and after each kill the backend
of some peer's connection is terminated. Of every second killed peer, no other peer of the host can
see the end, so that its lease has to end first. Nothing may be lost, and nothing done twice.

The last line has the figures, from the database's journal and from the ledger that the handlers
keep outside of it. Exit 1 if they are not clean. With --broken-fence the SQL is patched so that
whoever says that a task is done is believed, a peer is stopped past its lease, and the exit code
must be 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peers.pool import liveness
from tests.e2e.audit import Audit
from tests.e2e.disasters import LEASE, NO_FENCE, stop_past_the_lease
from tests.e2e.harness import PeerProcess, Stage, until
from tests.support.server import Databases, any_server
from tests.support.world import apply_patches, run, value

PEERS: Final = 3
_PARENTS: Final = (0, 1, 1, 2, 3, 5)
_REACH: Final = 200
"""A node's parents are among so many before it."""
_FATES: Final = ("completes",) * 30 + ("fails first",) * 2 + ("rejected",)
_POLICIES: Final = ("run",) * 9 + ("cancel",)
_LONGEST_NODE: Final = 0.01
_PATIENCE: Final = 120.0
"""Seconds without any task coming to an end, after which the run has failed."""

_TERMINATE_ONE: Final = """
    select count(*) filter (where pg_terminate_backend(pid)) from (
        select pid from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
          and backend_type = 'client backend'
        order by pid offset %s limit 1
    ) a
"""
_BACKENDS: Final = """
    select count(*) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and backend_type = 'client backend'
"""

_UNENDED: Final = (
    "select count(*) from peers.task where state not in ('completed', 'dead', 'cancelled')"
)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    audit: Audit
    submitted: int
    kills: int
    """Peers killed with SIGKILL."""
    backend_kills: int
    """Backends of peers that were terminated."""
    unseen: int
    """Killed peers whose end no other peer of the host could see."""
    seconds: float
    problems: int

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return self.audit.clean and self.audit.tasks == self.submitted and self.problems == 0

    def __str__(self) -> str:
        return (
            f"{self.audit} kills={self.kills} unseen={self.unseen}"
            f" backend_kills={self.backend_kills} problems={self.problems}"
            f" seconds={self.seconds:.0f}"
        )


def random_graph(luck: random.Random, size: int) -> list[dict[str, Any]]:
    """Nodes as peers.submit_graph takes them; a node's parents come before it."""
    nodes: list[dict[str, Any]] = []
    for n in range(size):
        near = range(max(0, n - _REACH), n)
        parents = luck.sample(near, min(len(near), luck.choice(_PARENTS)))
        args = {"n": n, "seconds": luck.uniform(0, _LONGEST_NODE), "fate": luck.choice(_FATES)}
        nodes.append({
            "name": str(n), "kind": "graph.node", "args": args, "max_attempts": 1000,
            "after": [str(parent) for parent in parents],
            "on_parent_failure": luck.choice(_POLICIES),
        })  # fmt: skip
    return nodes


def unleash(stage: Stage, luck: random.Random, tasks: int, every: float) -> Outcome:
    """Works off a random graph while random peers are killed and replaced again and again, and
    random backends of peers are terminated in between.
    """
    began = time.monotonic()
    graph = json.dumps(random_graph(luck, tasks))
    run(stage.db, "select count(*) from peers.submit_graph(%s::jsonb)", graph)
    living = [stage.launch(slots=2, **LEASE) for _ in range(PEERS)]
    stage.until_true("select exists (select from peers.task where finished_at is not null)")
    progress = _Progress(stage, tasks)
    kills = backend_kills = unseen = 0
    while progress.left and not progress.stalled:
        victim = living.pop(luck.randrange(PEERS))
        if kills % 2:
            unseen += hide_the_end_of(stage, victim)
        victim.kill()
        kills += 1
        living.append(stage.launch(slots=2, **LEASE))
        progress.watch(every / 2)
        if progress.left:
            backend_kills += terminate_a_backend(stage, luck)
        progress.watch(every / 2)
    if not progress.stalled:
        for peer in living:
            peer.joined()
            assert peer.terminate() == 0, peer.log.read_text()
    return _conclude(stage, tasks, kills, backend_kills, unseen, began)


def hide_the_end_of(stage: Stage, peer: PeerProcess) -> int:
    """Remove the file by which other peers see that this one has ended. How many files: 0 if it
    has ended already, because it lost a backend while it started.
    """
    until(lambda: peer.events("peer_joined") or peer.process.poll() is not None, "a peer to join")
    locks = stage.rows("select liveness_lock from peers.peer where pid = %s", peer.pid)
    files = [liveness.FOLDER / f"peers-{each['liveness_lock']}" for each in locks]
    hidden = [file for file in files if file.exists()]
    for file in hidden:
        file.unlink()
    return len(hidden)


def terminate_a_backend(stage: Stage, luck: random.Random) -> int:
    """How many it were: one, unless no peer is connected at this moment."""
    backends = value(stage.db, _BACKENDS)
    return int(value(stage.db, _TERMINATE_ONE, luck.randrange(backends))) if backends else 0


class _Progress:
    """How many tasks have not ended, and since when that number has not fallen."""

    def __init__(self, stage: Stage, tasks: int) -> None:
        self._stage = stage
        self.left = tasks
        self._moved_at = time.monotonic()

    @property
    def stalled(self) -> bool:
        """Whether no task has ended for longer than we wait."""
        return time.monotonic() - self._moved_at > _PATIENCE

    def watch(self, seconds: float) -> None:
        """Look again and again for so long, or until all tasks have ended."""
        until = time.monotonic() + seconds
        while self.left and not self.stalled and time.monotonic() < until:
            left = value(self._stage.db, _UNENDED)
            if left < self.left:
                self.left, self._moved_at = left, time.monotonic()
            time.sleep(min(seconds, 0.05))


def _conclude(
    stage: Stage, submitted: int, kills: int, backend_kills: int, unseen: int, began: float
) -> Outcome:
    problems = len(stage.rows("select * from peers.check()"))
    seconds = time.monotonic() - began
    return Outcome(stage.audit(), submitted, kills, backend_kills, unseen, seconds, problems)


def without_a_fence(stage: Stage) -> Outcome:
    """The disaster that the fence is for, without the fence."""
    began = time.monotonic()
    apply_patches(stage.db, [NO_FENCE])
    stop_past_the_lease(stage)
    return _conclude(stage, 1, 0, 0, 0, began)


@contextmanager
def any_stage() -> Iterator[Stage]:
    """A stage on whichever server is to be had."""
    with any_server() as (url, origin), tempfile.TemporaryDirectory() as folder:
        databases = Databases(url)
        try:
            databases.make_template()
            print(f"server_version {databases.server_version} ({origin})")
            with databases.clone() as database, Stage(database, Path(folder)) as stage:
                yield stage
        finally:
            databases.close()


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument(
        "--every", type=float, default=0.2, help="seconds between two kills of peers"
    )
    parser.add_argument("--broken-fence", action="store_true")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with any_stage() as stage:
        if args.broken_fence:
            outcome = without_a_fence(stage)
        else:
            outcome = unleash(stage, random.Random(args.seed), args.tasks, args.every)
        for name in ("lost", "twice", "early", "foreign"):
            if found := getattr(outcome.audit, name):
                print(f"{name}: {found[:20]}")
        print(outcome)
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
