"""A fork server that is started before anybody needs it."""

from __future__ import annotations

import os

from peers.pool.fork_server_start import ForkServerOptions, start, started_early

OPTIONS = ForkServerOptions("json", ("text", "info"), dict(os.environ))
OTHER = ForkServerOptions("json", ("text", "info"), {**os.environ, "CUDA_VISIBLE_DEVICES": "1"})


def test_it_is_given_to_who_asks_for_the_same() -> None:
    """Once; who wants another app or environment gets another process."""
    with started_early(OPTIONS):
        started = [start(OTHER), start(OPTIONS), start(OPTIONS)]
        assert len({one.process.pid for one in started}) == 3
        assert started[1].process.pid < started[0].process.pid < started[2].process.pid
    for one in started:
        assert one.process.poll() is None
        one.process.kill()
        one.process.wait()
        one.socket.close()


def test_it_ends_if_nobody_has_asked_for_it() -> None:
    """Such as when the database cannot be reached."""
    before = _children()  # such as the tests' own database
    with started_early(OPTIONS):
        (child,) = _children() - before
    assert child not in _children()


def _children() -> set[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return set(stream.read().split())
