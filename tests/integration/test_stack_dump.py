"""The signal by which a worker writes its stacks: which one it takes, and which ones it leaves."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_ALL = list(range(signal.SIGRTMAX - 5, signal.SIGRTMAX))


def registered(before: str) -> str:
    """What a fresh process registers, after this code has run."""
    code = (
        f"import signal, faulthandler, sys\n{before}\n"
        "from peers.worker.stacks import register_stack_dump\n"
        "found = register_stack_dump()\n"
        "print(found and found[0], [signal.getsignal(n) is own for n in used])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_a_free_signal_is_taken() -> None:
    """The first one."""
    assert registered("used, own = [], None") == f"{_ALL[0]} []"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_handlers_of_the_app_stay(count: int) -> None:
    """A signal that the app has a handler for is left alone; without a free one there is none."""
    used = _ALL[:count]
    before = f"own = lambda *_: None\nused = {used}\nfor n in used: signal.signal(n, own)"
    expected = _ALL[count] if count < len(_ALL) else None
    assert registered(before) == f"{expected} {[True] * count}"


def test_handlers_in_c_and_ignored_signals_stay() -> None:
    """Python's own table does not know of handlers that C code has installed."""
    before = (
        f"own, used = signal.SIG_IGN, [{_ALL[1]}]\n"
        f"faulthandler.register({_ALL[0]}, file=sys.stdout)\nsignal.signal({_ALL[1]}, own)"
    )
    assert registered(before) == f"{_ALL[2]} [True]"
