"""Handlers that submit, for the tests of what becomes of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

import peers
from peers import current_task, task
from tests.e2e.ledger import recorded

_AT_ONCE = timedelta(0)


@task("noop")
def noop(n: int = 0) -> dict[str, Any]:
    """Nothing but a result."""
    with recorded():
        return {"token": current_task().token, "n": n}


@task("reports")
def reports(times: int) -> dict[str, Any]:
    """Tells its progress, and asks for its parents."""
    with recorded():
        longest = 0.0
        for n in range(times):
            began = time.monotonic()
            current_task().progress(n, times)
            current_task().parents()
            longest = max(longest, time.monotonic() - began)
        return {"token": current_task().token, "longest": longest}


def submit_children(children: int) -> list[int]:
    """A graph of tasks that nobody runs; each says whose it is."""
    me = current_task()
    with peers.graph() as graph:
        nodes = [
            graph.add("child", {"n": n, "parent": me.id, "token": me.token})
            for n in range(children)
        ]
    return [node.id for node in nodes]


@task("submits", backoff=_AT_ONCE, max_attempts=50)
def submits(children: int, die_after: float | None = None) -> dict[str, Any]:
    """Submits so many children in one graph; in some attempts its worker is killed meanwhile."""
    with recorded():
        me = current_task()
        if die_after is not None and me.attempt == 1:
            threading.Timer(die_after, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return {"token": me.token, "ids": submit_children(children)}


@task("submits.with.key", backoff=_AT_ONCE, max_attempts=3)
def submits_with_key(key: str) -> dict[str, Any]:
    """Submits a graph and fails afterwards; its second attempt completes."""
    with recorded():
        me = current_task()
        with peers.graph(idempotency_key=key) as graph:
            first = graph.add("child", {"parent": me.id})
            last = graph.add("child", {"parent": me.id}, depends_on=[first])
        if me.attempt == 1:
            raise RuntimeError("the first attempt never works")
        return {"token": me.token, "ids": [first.id, last.id]}
