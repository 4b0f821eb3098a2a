"""A model that hangs is ended, whatever it does to signals; and what it did ends with its call."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peers.predict.models.timer_signals import TimerSignals
from tests.e2e.harness import Stage
from tests.predict.runs import MODELS, numbers, predict, results

TIMERS = [
    (signal.SIGALRM, signal.ITIMER_REAL),
    (signal.SIGVTALRM, signal.ITIMER_VIRTUAL),
    (signal.SIGPROF, signal.ITIMER_PROF),
]


@pytest.mark.parametrize("model", ["deaf", "blocks_the_loop"])
def test_a_model_that_is_deaf_is_ended_and_its_rows_stand_alone(
    stage: Stage, model: str, tmp_path: Path
) -> None:
    """Every other row is predicted; the one that hangs is dead, and says why."""
    source, output = numbers(tmp_path, {7: -3}, rows=10), tmp_path / "out.parquet"
    words: list[Any] = ["--model", f"{MODELS}:{model}", "--input", source, "--output", output]
    words += ["--id-column", "id", "--workers", 2, "--timeout", "2s", "--batch-wait", "0"]
    summary, _ = predict(stage, *words, "--max-attempts", 1, "--max-dead", 1, "--batch-size", 2)
    assert [row["row"] for row in summary["dead_rows"]] == [7]
    assert "--timeout" in summary["dead_rows"][0]["error"]
    assert results(output) == [(row, row * 2.0) for row in range(10) if row != 7]


@pytest.fixture
def plain_signals() -> Iterator[None]:
    """They are what they were, afterwards."""
    before = [signal.getsignal(number) for number, _ in TIMERS]
    yield
    for (number, timer), handler in zip(TIMERS, before, strict=True):
        signal.setitimer(timer, 0)
        signal.signal(number, handler)


@pytest.mark.usefixtures("plain_signals")
@pytest.mark.parametrize(("number", "timer"), TIMERS)
def test_a_timer_that_a_model_leaves_behind_ends_with_its_call(number: int, timer: int) -> None:
    """The next run in the warm worker finds the handlers of before; the model finds its own."""
    before = signal.getsignal(number)
    signals = TimerSignals()

    def handler(*_: object) -> None:
        raise TimeoutError

    with signals.restored():
        signal.signal(number, handler)
        signal.setitimer(timer, 3600)
    assert signal.getitimer(timer) == (0, 0)
    assert signal.getsignal(number) == before
    with TimerSignals().restored():
        assert signal.getsignal(number) == before
    with contextlib.suppress(ZeroDivisionError), signals.restored():
        assert signal.getsignal(number) is handler
        raise ZeroDivisionError
    assert signal.getsignal(number) == before


def test_in_a_thread_signals_are_left_alone() -> None:
    """Python lets only the main thread set handlers."""
    failures: list[BaseException] = []

    def borrow() -> None:
        try:
            with TimerSignals().restored():
                pass
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    thread = threading.Thread(target=borrow)
    thread.start()
    thread.join()
    assert failures == []
