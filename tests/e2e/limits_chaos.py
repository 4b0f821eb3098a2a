"""Limits under fire: peers are killed with SIGKILL and stopped with SIGSTOP, also past their lease.

    python -m tests.e2e.limits_chaos [--peers 16] [--keys 1000] [--tasks 20000] [--seed N]

The handlers note their start, every few milliseconds, and their end in a ledger outside of the
database. The last line has the figures. Exit 1 if more tasks of a key ran at any moment than its
limit allows, if more started in any period, or if a task was lost or ran to its end twice.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tests.e2e import ledger
from tests.e2e.chaos import any_stage
from tests.e2e.harness import PeerProcess, Stage
from tests.support.world import problems, run, value

MOST_RUNNING: Final = 3
MOST_OF_ASYNC: Final = 5
STARTS: Final = 10
PER: Final = 1.0
LEASE: Final = {"lease_timeout": "3s", "heartbeat_interval": "1s"}
_PATIENCE: Final = 120.0
_EVERY: Final = 0.7
"""Seconds between two disasters."""
_LONGEST_STOP: Final = 6.0

LIMITS: Final = """
    insert into peers.limit (name, kind, key, max_running, starts, per, fair) values
        ('accounts', 'limits.work', 'account', %s, null, null, true),
        ('async', 'limits.async', 'account', %s, null, null, false),
        ('rate', 'limits.rate', 'account', null, %s, %s, false)
"""
UNENDED: Final = "select count(*) from peers.task where finished_at is null"


@dataclass
class Outcome:
    """What a run came to."""

    tasks: int
    most_running: int
    most_async: int
    most_starts: int
    lost: int
    twice: int
    problems: int
    kills: int
    stops: int
    runs: int
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return (
            self.most_running <= MOST_RUNNING
            and self.most_async <= MOST_OF_ASYNC
            and self.most_starts <= STARTS
            and not (self.lost or self.twice or self.problems)
        )

    def __str__(self) -> str:
        return " ".join(f"{name}={entry:.0f}" for name, entry in vars(self).items())


def zipf(luck: random.Random, keys: int, count: int) -> list[int]:
    """Return `count` keys, of which the first ones are much more frequent."""
    sums = list(accumulate(1 / (n + 1) for n in range(keys)))
    return [bisect_left(sums, luck.uniform(0, sums[-1])) for _ in range(count)]


def submit(stage: Stage, luck: random.Random, keys: int, tasks: int) -> None:
    """Submit tasks of all limited kinds, and some of a kind without a limit."""
    with (
        stage.db.cursor() as cursor,
        cursor.copy("copy peers.task (kind, args, max_attempts) from stdin") as copy,
    ):
        for n, account in enumerate(zipf(luck, keys, tasks)):
            seconds = luck.choice((0.0, 0.0, 0.005, 0.01, 0.03, 0.2))
            kind = luck.choice(("limits.work",) * 5 + ("limits.async",) * 2 + ("limits.rate",))
            args = f'{{"account": {account}, "seconds": {seconds}}}'
            if kind == "limits.rate":
                args = f'{{"account": {account % 20}}}'
            if n % 10 == 9:
                kind, args = "limits.free", "{}"
            copy.write_row((kind, args, 1000))


class _Disasters:
    """Kills random peers, and stops others for a while."""

    def __init__(self, stage: Stage, luck: random.Random, peers: int) -> None:
        self._stage = stage
        self._luck = luck
        self._living = [self._launch() for _ in range(peers)]
        self._stopped: dict[PeerProcess, float] = {}
        self.kills = 0
        self.stops = 0

    def _launch(self) -> PeerProcess:
        return self._stage.launch("tests.e2e.app_limits", slots=4, **LEASE)

    def strike(self) -> None:
        """Kill a peer with SIGKILL and start another one, or stop a peer with SIGSTOP.

        Most peers are left alone until they have joined: a slow machine would otherwise make no
        progress.
        """
        for peer in [peer for peer in self._living if peer.process.poll() is not None]:
            self._living[self._living.index(peer)] = self._launch()
        able = [
            peer for peer in self._living
            if peer not in self._stopped and peer.events("peer_joined")
        ]  # fmt: skip
        if len(able) <= len(self._living) / 2:
            return
        victim = self._luck.choice(able)
        if self._luck.random() < 0.5:
            victim.kill()
            self._living[self._living.index(victim)] = self._launch()
            self.kills += 1
        else:
            victim.send(signal.SIGSTOP)
            self._stopped[victim] = time.monotonic() + self._luck.uniform(0.05, _LONGEST_STOP)
            self.stops += 1

    def resume(self, before: float) -> None:
        """Let those go on whose time is over."""
        for victim in [peer for peer, at in self._stopped.items() if at < before]:
            victim.send(signal.SIGCONT)
            del self._stopped[victim]

    def end(self) -> None:
        """Let every peer drain."""
        self.resume(float("inf"))
        for peer in self._living:
            if peer.process.poll() is None:
                peer.terminate()


def unleash(stage: Stage, luck: random.Random, *, peers: int, keys: int, tasks: int) -> Outcome:
    """Work off the tasks while random peers are killed and stopped."""
    began = time.monotonic()
    run(stage.db, LIMITS, MOST_RUNNING, MOST_OF_ASYNC, STARTS, f"{PER} s")
    submit(stage, luck, keys, tasks)
    disasters = _Disasters(stage, luck, peers)
    stage.until_true("select exists (select from peers.task where finished_at is not null)")
    left, moved_at = tasks, time.monotonic()
    while left and time.monotonic() - moved_at < _PATIENCE:
        disasters.strike()
        until = time.monotonic() + _EVERY
        while time.monotonic() < until and left:
            disasters.resume(time.monotonic())
            time.sleep(0.05)
            before, left = left, value(stage.db, UNENDED)
            moved_at = time.monotonic() if left != before else moved_at
    disasters.end()
    return _conclude(stage, tasks, left, disasters, began)


def _conclude(stage: Stage, tasks: int, left: int, disasters: _Disasters, began: float) -> Outcome:
    of_task = {
        row["id"]: (row["kind"], row["account"])
        for row in stage.rows("select id, kind, args ->> 'account' as account from peers.task")
    }
    intervals: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    ran: dict[tuple[int, str, int], list[int]] = defaultdict(list)
    ends: dict[int, int] = defaultdict(int)
    for entry in ledger.read(stage.ledger):
        ran[*entry.lease, entry.pid].append(entry.at)
        ends[entry.task_id] += entry.event == "end"
    for (task_id, _, _), times in ran.items():
        intervals[of_task[task_id]].append((times[0], times[-1]))
    most: dict[str, int] = defaultdict(int)
    starts = 0
    for (kind, _), found in intervals.items():
        most[kind] = max(most[kind], most_at_once(found))
        if kind == "limits.rate":
            starts = max(starts, most_in_a_period(sorted(begin for begin, _ in found), PER))
    # a task whose peer was lost after its end is run again; its result counts once
    twice = value(
        stage.db,
        "select count(*) from (select task_id from journal.entry where state = 'completed'"
        " group by task_id having count(*) > 1) t",
    )
    completed = value(stage.db, "select count(*) from peers.task where state = 'completed'")
    return Outcome(
        tasks, most["limits.work"], most["limits.async"], starts, max(left, tasks - completed),
        twice, len(problems(stage.db)), disasters.kills, disasters.stops, len(ran),
        time.monotonic() - began,
    )  # fmt: skip


def most_at_once(intervals: list[tuple[int, int]]) -> int:
    """Return how many of these intervals overlap at most. One may begin when another ends."""
    changes = sorted([(end, -1) for _, end in intervals] + [(begin, 1) for begin, _ in intervals])
    return max(accumulate(change for _, change in changes), default=0)


def most_in_a_period(times: list[int], seconds: float) -> int:
    """Return how many of these times (in nanoseconds) lie in some period of this length."""
    most = first = 0
    for n, at in enumerate(times):
        while at - times[first] >= seconds * 1e9:
            first += 1
        most = max(most, n - first + 1)
    return most


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", type=int, default=16)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with any_stage() as stage:
        outcome = unleash(
            stage, random.Random(options.seed), peers=options.peers, keys=options.keys,
            tasks=options.tasks,
        )  # fmt: skip
    print(outcome)
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
