"""A fork server that is started before it is needed."""

from __future__ import annotations

import os

from peers.pool.fork_server_start import ForkServerOptions, start, started_early

OPTIONS = ForkServerOptions("json", ("text", "info"), dict(os.environ))
OTHER = ForkServerOptions("json", ("text", "info"), {**os.environ, "CUDA_VISIBLE_DEVICES": "1"})


def test_start_takes_the_early_server_with_the_same_options() -> None:
    """Once. Other options, or a second start, get another process."""
    with started_early(OPTIONS):
        started = [start(OTHER), start(OPTIONS), start(OPTIONS)]
        assert len({one.process.pid for one in started}) == 3
        assert started[1].process.pid < started[0].process.pid < started[2].process.pid
    for one in started:
        assert one.process.poll() is None
        one.process.kill()
        one.process.wait()
        one.socket.close()


def test_an_early_server_that_is_not_taken_is_killed() -> None:
    """For example, when the database cannot be reached."""
    before = _children()  # such as the tests' own database
    with started_early(OPTIONS):
        (child,) = _children() - before
    assert child not in _children()


def _children() -> set[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return set(stream.read().split())
