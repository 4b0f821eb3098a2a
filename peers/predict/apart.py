"""Prepare a run in a process of its own: what it loads is gone afterwards, and so is what it kills.

A model can take gigabytes, which the command would keep for as long as it watches the run; and the
first rows may be of those that kill a model.
"""

from __future__ import annotations

import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

from peers import PeersError
from peers.predict.errors import ModelError
from peers.predict.prepare import Plan, prepare
from peers.predict.request import Request

_FAREWELL: Final = 5.0
"""Seconds that a process gets to end by itself: threads of a model might keep it for ever."""


def prepare_apart(request: Request) -> Plan:
    """What `prepare` returns, or raises.

    Raises ModelError when the model kills each process in which it is tried, or when it is loaded.
    """
    killers: list[int] = []
    while True:
        outcome = _attempt(request, killers)
        if isinstance(outcome, Plan):
            return outcome
        killers.append(outcome)


def _attempt(request: Request, killers: list[int]) -> Plan | int:
    """The plan, or the row on whose trial the process died. Raises what `prepare` raised."""
    context = get_context("spawn")  # no lock and no connection of ours is in it
    receiver, sender = context.Pipe(duplex=False)
    # no daemon: models may start processes
    process = context.Process(target=_run, args=(sender, request, killers))
    process.start()
    sender.close()
    on_trial: int | None = None
    said: Any = None
    try:
        while isinstance(said := receiver.recv(), int | None):
            on_trial = said
    except EOFError:
        pass
    finally:
        process.join(_FAREWELL)
        process.kill()
        process.join()
    if isinstance(said, Exception):
        raise said
    if isinstance(said, Plan):
        return said
    if on_trial is not None:
        return on_trial
    raise ModelError(
        f"the process that loads and tries the model {request.model} ended: "
        f"{_how(process.exitcode)}",
        "Nothing was submitted.",
    )


def _run(sender: Connection, request: Request, killers: list[int]) -> None:
    try:
        sender.send(prepare(request, killers, trying=sender.send))
    except (PeersError, OSError) as error:
        sender.send(error)
    except KeyboardInterrupt:
        pass  # the parent has it, too, and says so


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
