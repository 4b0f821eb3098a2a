"""What the file of an ended peer proves: never more than is true, and all of it if it is whole."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.database.rows import UnstartedTasks
from peers.pool import handle, liveness, local_queue, unstarted
from peers.pool.assignment_log import (
    CHECKED,
    COUNT_AT,
    MAGIC,
    QUEUED,
    RECORD,
    RECORD_BYTES,
    RECORDS,
    RING_AT,
    SIZE,
    WORD,
    AssignmentLog,
    unpack_record,
)
from peers.pool.claim import Claim, TaskRun
from peers.pool.durations import DurationEstimate
from peers.pool.handle import WorkerHandle
from peers.pool.liveness import LivenessLock
from peers.pool.local_queue import LocalQueue
from peers.pool.process import WorkerProcess
from peers.pool.unstarted import find_unstarted
from peers.protocol.messages import Assign
from peers.protocol.running_marker import RunningMarker
from peers.protocol.started_marks import MARKS, UNMARKED, WORD_BYTES, StartedMarks, decode, encode
from tests.support import claims

CLAIM = 10
Task = tuple[bytes, int]


def pack_record(
    number: int, execution_id: int, token: bytes, first: int, count: int, mark: int
) -> bytes:
    """A record with its checksum."""
    body = RECORD.pack(number, execution_id, token, first, count, mark)
    return CHECKED.pack(body, crc32(body))


def a_claim(number: int) -> Claim:
    """As much of a claim as the log needs."""
    return cast("Claim", SimpleNamespace(token=number.to_bytes(16, "big"), rerun=set()))


def tasks_of(found: list[UnstartedTasks]) -> set[Task]:
    """Each task on its own."""
    return {
        (token, index) for token, first, number in found for index in range(first, first + number)
    }


class Worker:
    """What a worker has, in the order of the execution ids."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.waiting: list[tuple[int, Claim, int]] = []


class History:
    """A peer and its workers, and what is true about their tasks."""

    def __init__(self, seed: int) -> None:
        self.memory = bytearray(SIZE)
        self.log = AssignmentLog(self.memory)
        self.started: set[Task] = set()
        self.claimed: set[Task] = set()
        self._random = random.Random(seed)
        self._next_execution = 1
        self._claims = 0
        self._queued: list[TaskRun] = []
        self._workers = [Worker(self.log.take_mark()) for _ in range(3)]

    def live(self, steps: int) -> None:
        """Let so many things happen."""
        for _ in range(steps):
            self._random.choice(
                [self._claim, self._assign, self._assign, self._start, self._start, self._start,
                 self._give_back, self._replace]
            )()  # fmt: skip

    @property
    def unstarted(self) -> set[Task]:
        """What a witness should find."""
        return self.claimed - self.started

    def found(self) -> set[Task]:
        """What it finds."""
        return tasks_of(find_unstarted(bytes(self.memory)))

    def _claim(self) -> None:
        self._claims += 1
        claim = a_claim(self._claims)
        run = TaskRun(claim, 0, self._random.randint(1, CLAIM))
        self.claimed.update((claim.token, index) for index in range(run.count))
        self._queue(run)

    def _queue(self, run: TaskRun) -> None:
        self.log.queued(run)
        self._queued.append(run)

    def _assign(self) -> None:
        if not self._queued:
            return
        run = self._queued.pop(self._random.randrange(len(self._queued)))
        count = self._random.randint(1, run.count)
        run, rest = run.split(count)
        if rest.count:
            self._queued.append(rest)
        worker = self._random.choice(self._workers)
        self.log.assigned(run, worker.mark, self._next_execution)
        for index in range(run.first, run.first + run.count):
            worker.waiting.append((self._next_execution, run.claim, index))
            self._next_execution += 1

    def _start(self) -> None:
        worker = self._random.choice(self._workers)
        if worker.waiting:
            execution_id, claim, index = worker.waiting.pop(0)
            WORD.pack_into(self.memory, worker.mark * WORD_BYTES, encode(execution_id))
            self.started.add((claim.token, index))

    def _give_back(self) -> None:
        worker = self._random.choice(self._workers)
        for _, claim, index in worker.waiting:
            self._queue(TaskRun(claim, index, 1))
        worker.waiting.clear()

    def _replace(self) -> None:
        """A worker dies. What it had started is over, the rest waits again."""
        self._give_back()
        worker = self._random.choice([each for each in self._workers if not each.waiting] or [None])
        if worker is not None:
            self.log.free_mark(worker.mark)
            self._workers.remove(worker)
            self._workers.append(Worker(self.log.take_mark()))


@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_a_whole_file_says_exactly_what_is_true(seed: int, steps: int) -> None:
    """Whatever was claimed, assigned, started and given back, also when workers are replaced."""
    history = History(seed)
    history.live(steps)
    assert history.found() == history.unstarted


@given(seed=st.integers(0, 1 << 32), bit=st.integers(0, SIZE * 8 - 1), near=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_says_nothing_that_is_wrong(seed: int, bit: int, near: bool) -> None:
    """Any bit may have changed. Those that are in use are tried more often."""
    history = History(seed)
    history.live(200)
    used = [*range(4 * WORD_BYTES), *range(COUNT_AT, RING_AT + 100 * RECORD_BYTES)]
    at = used[bit // 8 % len(used)] if near else bit // 8
    history.memory[at] ^= 1 << bit % 8
    assert history.found() <= history.unstarted


def _skips_damaged_records(file: bytes) -> Iterator[tuple[int, bytes, int, int, int]]:
    """A broken variant: a record that is damaged is left out."""
    count = decode(WORD.unpack_from(file, COUNT_AT)[0]) or 0
    for number in range(count - 1, max(-1, count - RECORDS), -1):
        at = RING_AT + number % RECORDS * RECORD_BYTES
        record = unpack_record(file[at : at + RECORD_BYTES])
        if record is not None:
            yield record[1:]


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_newest_first", _skips_damaged_records),
        ("unpack_record", lambda record: RECORD.unpack(record[: RECORD.size])),
        ("decode", lambda word: word // encode(0) - 1),
    ],
)
def test_broken_readers_are_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., Any]
) -> None:
    """Without a safeguard, some damaged file says something that is wrong."""
    monkeypatch.setattr(unstarted, name, broken)
    chance = random.Random(1)
    for seed in range(1000):
        history = History(seed % 50)
        history.live(60)
        records = range(RING_AT, RING_AT + history.log._written * RECORD_BYTES)
        marks = range(WORD_BYTES, 4 * WORD_BYTES)
        history.memory[chance.choice(chance.choice([records, marks]))] ^= 1 << chance.randrange(8)
        if not history.found() <= history.unstarted:
            return
    pytest.fail("the broken variant is not caught")


def test_what_was_overwritten_is_unknown() -> None:
    """The ring keeps the last records. A task whose record is gone counts, unless a later one says
    where it is.
    """
    memory = bytearray(SIZE)
    log = AssignmentLog(memory)
    old, moved, other = a_claim(1), a_claim(2), a_claim(3)
    log.queued(TaskRun(old, 0, 5))
    log.queued(TaskRun(moved, 0, 5))
    for _ in range(RECORDS - 3):
        log.queued(TaskRun(other, 7, 1))
    assert tasks_of(find_unstarted(bytes(memory))) > {(old.token, 0), (moved.token, 0)}
    log.assigned(TaskRun(moved, 2, 2), log.take_mark(), 100)
    found = tasks_of(find_unstarted(bytes(memory)))
    assert (old.token, 0) not in found, "the next record goes there, and may be written already"
    log.queued(TaskRun(other, 7, 1))
    found = tasks_of(find_unstarted(bytes(memory)))
    assert found == {(moved.token, 2), (moved.token, 3), (other.token, 7)}


def test_a_ring_that_has_wrapped_many_times() -> None:
    """A record counts only in its own round."""
    history = History(1)
    history.live(30_000)
    assert history.log._written > 2 * RECORDS
    found = history.found()
    assert found
    assert found <= history.unstarted
    last = history.log._written % RECORDS
    before = RING_AT + (last - 1) % RECORDS * RECORD_BYTES
    history.memory[before : before + RECORD_BYTES] = pack_record(
        history.log._written - 1 - RECORDS, 0, b"\0" * 16, 0, 1, QUEUED
    )
    assert history.found() == set()


@pytest.mark.parametrize("bytes_written", [0, 1, RECORD_BYTES // 2, RECORD_BYTES])
def test_a_peer_that_is_killed_while_it_writes(bytes_written: int) -> None:
    """The record that it is writing replaces the oldest one, and does not count yet."""
    memory = bytearray(SIZE)
    log = AssignmentLog(memory)
    first, other = a_claim(1), a_claim(2)
    log.queued(TaskRun(first, 0, 1))
    for _ in range(RECORDS - 1):
        log.queued(TaskRun(other, 0, 1))
    record = pack_record(RECORDS, 1, other.token, 0, 1, UNMARKED)
    memory[RING_AT : RING_AT + bytes_written] = record[:bytes_written]
    assert tasks_of(find_unstarted(bytes(memory))) == {(other.token, 0)}


def test_a_task_that_runs_again_under_its_lease_has_started() -> None:
    """A part of a batch that crashed its worker, wherever it waits."""
    memory = bytearray(SIZE)
    log = AssignmentLog(memory)
    claim = a_claim(1)
    log.queued(TaskRun(claim, 0, 4))
    claim.rerun.add(2)
    log.assigned(TaskRun(claim, 2, 1), log.take_mark(), 10)
    assert tasks_of(find_unstarted(bytes(memory))) == {(claim.token, index) for index in (0, 1, 3)}
    log.queued(TaskRun(claim, 1, 2))
    assert tasks_of(find_unstarted(bytes(memory))) == {(claim.token, index) for index in (0, 3)}


def test_more_workers_than_marks() -> None:
    """The tasks of those without a mark count as started."""
    memory = bytearray(SIZE)
    log = AssignmentLog(memory)
    marks = [log.take_mark() for _ in range(MARKS - 1)]
    assert sorted(marks) == list(range(1, MARKS))
    assert marks[-1] == UNMARKED
    claim = a_claim(1)
    log.assigned(TaskRun(claim, 0, 1), marks[-2], 10)
    log.assigned(TaskRun(claim, 1, 1), marks[-1], 11)
    log.assigned(TaskRun(claim, 2, 1), 0, 12)
    assert tasks_of(find_unstarted(bytes(memory))) == {(claim.token, 0)}
    log.free_mark(UNMARKED)
    assert log.take_mark() == UNMARKED
    log.free_mark(marks[5])
    assert log.take_mark() == marks[5]


@pytest.mark.parametrize(
    "file",
    [
        b"",
        MAGIC,
        bytes(SIZE),
        MAGIC + bytes(SIZE - len(MAGIC)),
        MAGIC + b"\xff" * (SIZE - len(MAGIC)),
        b"peers v0" + bytes(SIZE - len(MAGIC)),
        MAGIC + os.urandom(SIZE - len(MAGIC)),
    ],
)
def test_other_files_say_nothing(file: bytes) -> None:
    """Whatever they are."""
    assert find_unstarted(file) == []


def test_a_file_that_somebody_made_up_is_read_quickly() -> None:
    """Full of valid records of the largest claims, and of larger ones."""
    memory = bytearray(SIZE)
    AssignmentLog(memory)
    for number in range(RECORDS):
        at = RING_AT + number * RECORD_BYTES
        memory[at : at + RECORD_BYTES] = pack_record(
            number, 0, number.to_bytes(16, "big"), number % 2, 9_999, QUEUED
        )
    WORD.pack_into(memory, COUNT_AT, encode(RECORDS))
    began = time.process_time()
    assert len(find_unstarted(bytes(memory))) == RECORDS - 1
    assert time.process_time() - began < 2
    for first, count in ((1, 10_000), (0, 0xFFFF_FFFF), (0xFFFF_FFFF, 0xFFFF_FFFF)):
        at = RING_AT + (RECORDS - 1) * RECORD_BYTES
        memory[at : at + RECORD_BYTES] = pack_record(RECORDS - 1, 0, b"\0" * 16, first, count, 1)
        assert find_unstarted(bytes(memory)) == []


@given(st.integers(0, 10**13), st.integers(0, 63))
def test_a_word_that_was_damaged_is_no_number(number: int, bit: int) -> None:
    """And zeros are none either."""
    assert decode(encode(number)) == number
    assert decode(encode(number) ^ 1 << bit) is None
    assert decode(0) is None


# ------------------------------------------------------------------------------------ the peer


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """Where the log of this test's peer is."""
    made = bytearray(SIZE)
    log = AssignmentLog(made)
    monkeypatch.setattr(handle, "own_log", lambda: log)
    monkeypatch.setattr(local_queue, "own_log", lambda: log)
    return made


def test_a_peer_records_before_it_sends(memory: bytearray) -> None:
    """Claimed tasks wait; what is being sent to a worker may have started there; what it gives back
    waits again. Tasks that run again under their lease count as started from then on.
    """

    def found() -> set[int]:
        return {index for _, index in tasks_of(find_unstarted(bytes(memory)))}

    def sent(message: object) -> None:
        if isinstance(message, Assign):
            assert message.mark not in (UNMARKED, worker_of_others)
            [columns] = message.runs
            WORD.pack_into(memory, message.mark * WORD_BYTES, encode(columns.execution_id))
            seen.append(found())

    queue = LocalQueue("default", 9, DurationEstimate(), {})
    worker_of_others = queue._log.take_mark()
    claim, seen = claims.a_claim(queue, *["k"] * 6), list[set[int]]()
    queue.claimed(claim)
    assert found() == {0, 1, 2, 3, 4, 5}
    marker = Mock(RunningMarker, last_started=lambda: None)
    worker = WorkerHandle(Mock(WorkerProcess, marker=marker, send=sent, reap=lambda: 0), 0)
    worker.begin(asynchronous=False)
    worker.assign([TaskRun(claim, 0, 4)], DurationEstimate())
    assert seen == [{1, 2, 3, 4, 5}]
    [first] = worker.executions
    queue.requeue(worker.recalled([(first.execution_id + 2, 2)]))
    assert found() == {1, 2, 3, 4, 5}
    queue.add_parts([[claim.lease(1), claim.lease(4)]], 0.0)
    queue.requeue([claim.lease(index) for index in (1, 4)])
    assert found() == {2, 3, 5}
    worker.assign([TaskRun(claim, 2, 3)], DurationEstimate())
    assert found() == {5}, "what runs again makes the whole run doubtful"
    worker.reap(stopped=False)
    assert claim.rerun == {0, 1, 2, 3, 4}, "the marker is destroyed: nobody knows what had started"
    assert queue._log.take_mark() == worker_of_others + 1, "the mark is free again"


# ------------------------------------------------------------------------------------ the file


def test_a_worker_marks_in_the_file_of_its_peer(tmp_path: Path) -> None:
    """It keeps no descriptor through which a handler could write into the file."""
    lock = LivenessLock(tmp_path)
    lock.publish()
    mark, claim = lock.log.take_mark(), a_claim(1)
    lock.log.assigned(TaskRun(claim, 0, 4), mark, 20)
    theirs = os.dup(lock.log_fd)
    marks = StartedMarks(theirs)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(theirs)
    assert len(tasks_of(find_unstarted(liveness.read(lock.name, tmp_path)))) == 4
    marks.started(mark, 21)
    marks.started(UNMARKED, 22)
    found = tasks_of(find_unstarted(liveness.read(lock.name, tmp_path)))
    assert found == {(claim.token, 2), (claim.token, 3)}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(lock.fd, b"x")  # what all processes inherit


def test_marks_without_a_file() -> None:
    """Then nobody reads them."""
    StartedMarks(-1).started(3, 4)


def test_a_descriptor_that_cannot_be_mapped() -> None:
    """A worker that could not mark what it starts must not start anything."""
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(OSError, match="cannot map"):
        StartedMarks(read)


def test_no_room_for_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock does without it, and the file says nothing."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    lock = LivenessLock(tmp_path)
    lock.publish()
    lock.log.queued(TaskRun(a_claim(1), 0, 4))
    assert lock.log_fd == -1
    assert not liveness.is_released(lock.name, tmp_path)
    assert liveness.read(lock.name, tmp_path) == b""


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """Nothing, a pipe (it would not end), a link, a folder, a file of another size."""
    assert liveness.read("missing", tmp_path) == b""
    os.mkfifo(tmp_path / "peers-pipe")
    (tmp_path / "whole").write_bytes(MAGIC + bytes(SIZE - len(MAGIC)))
    (tmp_path / "peers-link").symlink_to(tmp_path / "whole")
    (tmp_path / "peers-folder").mkdir()
    (tmp_path / "peers-short").write_bytes(bytes(SIZE - 1))
    (tmp_path / "peers-long").write_bytes(bytes(SIZE + 1))
    for name in ("pipe", "link", "folder", "short", "long"):
        assert liveness.read(name, tmp_path) == b""
        assert not liveness.is_released(name, tmp_path) or name != "link"


def test_a_fork_has_a_log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that write into one ring would make it lie."""
    mine = liveness.own_log()
    assert liveness.own_log() is mine
    monkeypatch.setattr(os, "getpid", lambda: -7)
    assert liveness.own_log() is not mine
    lock = liveness.own_lock()
    assert lock is not None
    assert liveness.own_log() is lock.log
