"""The handlers that the real-process tests run: decent ones, and every kind of bad one.

A gate is a path: the handler goes on when a file is there. So tests decide how long something
takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import peers
from peers import current_task, task
from tests.e2e.ledger import note, recorded

_LOOK_AGAIN = 0.005
_PR_SET_PDEATHSIG = 1
_AT_ONCE = timedelta(0)


def _await_gate(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(_LOOK_AGAIN)


def _token() -> dict[str, Any]:
    return {"token": current_task().token}


# ------------------------------------------------------------------------------------- decent ones


@task("noop")
def noop(n: int = 0) -> dict[str, Any]:
    """Nothing but a result."""
    with recorded():
        return {**_token(), "n": n}


@task("held", backoff=_AT_ONCE)
def held(gate: str) -> dict[str, Any]:
    """Runs until the gate opens, whatever it is asked."""
    with recorded():
        _await_gate(gate)
        return _token()


@task("held.once", backoff=_AT_ONCE)
def held_once(gate: str) -> dict[str, Any]:
    """Its first attempt runs until the gate opens; the others do not wait."""
    with recorded():
        if current_task().attempt == 1:
            _await_gate(gate)
        return _token()


@task("outlives.its.peer", backoff=_AT_ONCE)
def outlives_its_peer(gate: str) -> dict[str, Any]:
    """Its first attempt goes on when the peer is killed: it takes the kernel's order back."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    with recorded():
        if current_task().attempt == 1:
            _await_gate(gate)
        return _token()


@task("ticks", backoff=_AT_ONCE, max_attempts=100)
def ticks(file: str, seconds: float) -> dict[str, Any]:
    """Writes down every moment at which it runs."""
    running, now = current_task(), time.monotonic_ns()
    with recorded():
        with Path(file).open("a", buffering=1) as moments:
            end = now + int(seconds * 1e9)
            while now < end:
                moments.write(f"{running.id} {running.attempt} {now}\n")
                time.sleep(0.001)
                now = time.monotonic_ns()
        return _token()


@task("leaves.a.daemon", backoff=_AT_ONCE)
def leaves_a_daemon(gate: str) -> dict[str, Any]:
    """Its first attempt starts a program that leaves its session and does not close descriptors."""
    with recorded():
        if current_task().attempt == 1:
            daemon = subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)
            told = Path(gate).with_name("daemon.tmp")
            told.write_text(str(daemon.pid))
            told.rename(told.with_name("daemon"))
            _await_gate(gate)
        return _token()


@task("nap")
def nap(seconds: float) -> dict[str, Any]:
    """Takes a while."""
    with recorded():
        time.sleep(seconds)
        return _token()


@task("rollup")
def rollup() -> dict[str, Any]:
    """Adds up what its parents returned."""
    with recorded():
        parents = current_task().parents()
        total = sum(parent.result["n"] for parent in parents)
        return {**_token(), "n": total, "parents": [[p.id, p.kind, p.state] for p in parents]}


@task("progress")
def progress(gate: str) -> dict[str, Any]:
    """Tells that it is at 3 of 7, and waits."""
    with recorded():
        current_task().progress(3, 7)
        _await_gate(gate)
        return _token()


@task("about")
def about() -> dict[str, Any]:
    """What a handler knows of its own task."""
    with recorded():
        me = current_task()
        left = None if me.deadline is None else me.deadline - time.monotonic()
        return {**_token(), "id": me.id, "kind": me.kind, "attempt": me.attempt, "left": left}


@task("submits")
def submits() -> dict[str, Any]:
    """Submits a task, and a graph, through its peer."""
    with recorded():
        alone = noop.submit(n=1)
        with peers.graph() as graph:
            first = graph.add(noop, n=2)
            last = graph.add(noop.after(first), n=3)
        found = [task.id for task in peers.find(graph=graph.id)]
        later = noop.options(delay=3600).submit(n=4)
        cancelled = peers.cancel(later)
        return {
            **_token(), "alone": alone, "first": first.id, "last": last.id, "found": found,
            "cancelled": cancelled,
        }  # fmt: skip


@task("cooperative")
def cooperative(gate: str) -> dict[str, Any]:
    """Ends when it is cancelled."""
    with recorded():
        while not Path(gate).exists():
            if current_task().cancelled:
                raise RuntimeError("stopped as I was told")
            time.sleep(_LOOK_AGAIN)
        return _token()


@task("async.held", backoff=_AT_ONCE)
async def async_held(gate: str) -> dict[str, Any]:
    """Waits for the gate on the loop."""
    with recorded():
        while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  # a gate is a file, and quick to ask
            await asyncio.sleep(_LOOK_AGAIN)
        return _token()


@task("async.rollup")
async def async_rollup() -> dict[str, Any]:
    """Adds up what its parents returned."""
    with recorded():
        parents = await current_task().parents_async()
        return {**_token(), "n": sum(parent.result["n"] for parent in parents)}


@task("graph.node", max_attempts=1000, backoff=_AT_ONCE)
def graph_node(n: int, seconds: float = 0.0, fate: str = "completes") -> dict[str, Any]:
    """A node of a random graph: it looks at its parents, works, and completes, fails once, or is
    rejected.
    """
    with recorded():
        current_task().parents()
        time.sleep(seconds)
        if fate == "rejected":
            raise peers.Reject("it had to be")
        if fate == "fails first" and current_task().attempt == 1:
            raise RuntimeError("the first attempt never works")
        return {**_token(), "n": n}


# ------------------------------------------------------------------------------------ bad in Python


@task("boom", max_attempts=2, backoff=_AT_ONCE)
def boom(message: str) -> None:
    """Raises."""
    with recorded():
        raise ValueError(message)


class MuteError(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@task("mute", max_attempts=1)
def mute() -> None:
    """Raises an error whose text raises."""
    with recorded():
        raise MuteError


@task("async.mute", max_attempts=1)
async def async_mute() -> None:
    """Raises an error whose text raises, on the loop."""
    with recorded():
        raise MuteError


def _odd(what: str) -> Exception:
    match what:
        case "syntax":
            return SyntaxError("m", ("f", 3, "7", "x", 3, "9"))  # type: ignore[arg-type]
        case "name":
            error: Exception = type("Odd", (Exception,), {"__qualname__": "\0\ud800"})()
            return error
        case "retry":
            retry = peers.Retry(1)
            retry.in_ = float("inf")
            return retry
        case _:
            raise ValueError(what)


@task("odd", max_attempts=1)
def odd(what: str) -> None:
    """Raises something that is not easily described."""
    with recorded():
        raise _odd(what)


@task("async.odd", max_attempts=1)
async def async_odd(what: str) -> None:
    """The same on the loop."""
    with recorded():
        raise _odd(what)


@task("async.boom", max_attempts=1)
async def async_boom(message: str) -> None:
    """Raises on the loop."""
    with recorded():
        raise ValueError(message)


@task("exits", max_attempts=1)
def exits() -> None:
    """Wants the interpreter to end, as a script would."""
    with recorded():
        raise SystemExit(3)


@task("retries", max_attempts=3)
def retries(seconds: float) -> None:
    """Asks for another attempt at its own time."""
    with recorded():
        raise peers.Retry(in_=seconds, message="not yet")


@task("snoozes", max_attempts=1)
def snoozes(gate: str) -> dict[str, Any]:
    """Cannot do anything before the gate is open."""
    with recorded():
        if not Path(gate).exists():
            raise peers.Snooze(in_=0.01, message="the gate is closed")
        return _token()


@task("async.snoozes", max_attempts=1)
async def async_snoozes(gate: str) -> dict[str, Any]:
    """The same on a loop."""
    return snoozes(gate)


@task("rejects")
def rejects(reason: str) -> None:
    """Knows that no attempt can help."""
    with recorded():
        raise peers.Reject(reason)


@task("typed", max_attempts=1)
def typed(n: int, name: str = "x") -> dict[str, Any]:
    """Is particular about its args."""
    with recorded():
        return {**_token(), "n": n, "name": name}


_RESULTS: dict[str, Any] = {
    "nan": float("nan"),
    "nul": "a\0b",
    "too large": "x" * (1 << 20),
    "not json": {1, 2},
    "surrogate": "\ud800",
    "escaped nul": "a regular expression: \\u0000",
    "none": None,
    "unicode": "Zürich ☃ 𝄞",
    "nearly too large": "x" * ((1 << 20) - 2),
}


@task("returns", max_attempts=1)
def returns(what: str) -> Any:
    """Returns something that can be kept, or not."""
    with recorded():
        return _RESULTS[what]


# --------------------------------------------------------------------------------- bad as a process


def _die(how: str, after: float = 0.0) -> None:
    time.sleep(after)
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "killed":  # as the kernel's out-of-memory killer does it
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            raise ValueError(f"there is no way to die by {how}")


@task("dies", max_attempts=1)
def dies(how: str) -> None:
    """Takes its process along."""
    with recorded():
        _die(how)


@task("dies.once", backoff=_AT_ONCE)
def dies_once(how: str) -> dict[str, Any]:
    """Takes its process along at the first attempt only."""
    with recorded():
        if current_task().attempt == 1:
            _die(how)
        return _token()


@task("async.dies", max_attempts=2, backoff=_AT_ONCE)
async def async_dies(how: str, gate: str) -> None:
    """Takes the loop's process along as soon as the gate opens."""
    with recorded():
        while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(_LOOK_AGAIN)
        _die(how)


@task("async.thread.dies", max_attempts=2, backoff=_AT_ONCE)
async def async_thread_dies(how: str) -> None:
    """Takes the process along from a thread, while the loop is idle."""
    with recorded():
        await asyncio.sleep(_LOOK_AGAIN)
        await asyncio.to_thread(_die, how, after=10 * _LOOK_AGAIN)


@task("hog", max_attempts=1)
def hog() -> None:
    """Asks for more memory than its process may have."""
    with recorded():
        limits = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limits[1]))
        try:
            bytearray(1 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)


@task("holds.the.gil")
def holds_the_gil(seconds: float) -> dict[str, Any]:
    """One regular expression that takes at least so long, during which no other
    thread gets a turn.
    """
    with recorded():
        for length in itertools.count(20):
            began = time.monotonic()
            re.match(r"(a+)+$", "a" * length + "b")
            if time.monotonic() - began > seconds:
                return {**_token(), "seconds": time.monotonic() - began}
        raise AssertionError("count() never ends")


@task("limits.itself", max_attempts=1)
def limits_itself(gate: str, limits: list[float | None]) -> dict[str, Any]:
    """Sets itself these limits, the last one for a call that deafens the process and then hangs."""
    with recorded():
        for limit in limits:
            current_task().kill_after(limit)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        try:
            _await_gate(gate)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        current_task().kill_after(None)
        return _token()


@task("async.limits.itself", max_attempts=1)
async def async_limits_itself(gate: str, seconds: float, patiently: bool) -> dict[str, Any]:
    """Keeps the loop to itself at a gate, or not, having set itself a limit."""
    with recorded():
        current_task().kill_after(seconds)
        await asyncio.sleep(0)
        if not patiently:
            _await_gate(gate)
        while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)
        return _token()


@task("async.blocks", backoff=_AT_ONCE)
async def async_blocks(gate: str) -> None:
    """Never yields to the loop, until the gate opens."""
    with recorded():
        _await_gate(gate)


@task("async.deaf")
async def async_deaf(gate: str) -> dict[str, Any]:
    """Does not mind being cancelled."""
    with recorded():
        while not Path(gate).exists():  # noqa: ASYNC240
            try:
                await asyncio.sleep(_LOOK_AGAIN)
            except asyncio.CancelledError:
                note("deaf")
        return _token()


@task("leaves.a.child", max_attempts=1)
def leaves_a_child(report: str) -> None:
    """Starts a program that would run for an hour, and dies."""
    with recorded():
        child = subprocess.Popen(["sleep", "3600"])
        Path(report).write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------- bad to their peer


@task("asks.nonsense", max_attempts=1)
def asks_nonsense(verb: str, payload: Any) -> Any:
    """Asks its peer for what does not exist, or in a form that makes no sense."""
    with recorded():
        return {**_token(), "answer": current_task().call(verb, payload)}


@task("tells.nonsense")
def tells_nonsense() -> dict[str, Any]:
    """Tells of a progress that no column can hold."""
    with recorded():
        me = current_task()
        for done in (1 << 70, 0.5, "half", None, -1):
            me.progress(done)  # type: ignore[arg-type]  # the point of it
        return _token()


@task("writes.to.its.socket", max_attempts=1)
def writes_to_its_socket(numbers: list[int]) -> dict[str, Any]:
    """Writes into a descriptor that is not its own."""
    with recorded():
        os.write(int(sys.argv[1]), bytes(numbers))
        return _token()


@task("writes.everywhere", max_attempts=1)
def writes_everywhere() -> None:
    """Writes into every descriptor that it finds."""
    with recorded():
        write_everywhere()


def write_everywhere() -> None:
    """Write a line into all descriptors but the standard ones."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"hello\n" * 20)


@task("closes.everything", max_attempts=1)
def closes_everything() -> dict[str, Any]:
    """Closes all descriptors, as daemons used to."""
    with recorded():
        os.closerange(3, 256)
        return _token()


@task("forks", max_attempts=1)
def forks() -> dict[str, Any]:
    """Forks a child that ends as a forked child should, and one that outlives the handler."""
    worker = os.getpid()
    with recorded():
        for outlives in (False, True):
            if os.fork() == 0:
                while outlives and os.getppid() == worker:  # not for ever: nobody would end it
                    time.sleep(0.1)
                os._exit(0)
        return _token()


def _fork_and_leave(how: str) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        match how:
            case "raises":
                raise ValueError("child")
            case "exits":
                sys.exit(1)
            case _:
                return {"of": "child"}
    with recorded():
        os.waitpid(child, 0)
        return {**_token(), "of": "parent"}


@task("forks.leaves", max_attempts=1, timeout=timedelta(seconds=30))
def forks_and_leaves(how: str) -> dict[str, Any]:
    """Forks a child that leaves the handler like its parent."""
    return _fork_and_leave(how)


@task("async.forks.leaves", max_attempts=1, timeout=timedelta(seconds=30))
async def async_forks_and_leaves(how: str) -> dict[str, Any]:
    """The same on the loop."""
    await asyncio.sleep(0)
    return _fork_and_leave(how)
