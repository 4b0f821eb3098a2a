"""What a worker's death means for what it had been given: who is guilty, and what goes on."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from peers.bisect import halves
from peers.pool.isolation import Suspects
from peers.pool.local_queue import Lease, LocalQueue


@dataclass(slots=True, eq=False)
class Out:
    """A lease that a worker has been given and has not answered.

    Those of one batch have the same `call`; else it is the lease's own ticket.
    """

    lease: Lease
    local_queue: LocalQueue
    expected: float
    call: int
    is_first: bool = False
    """Whether the worker had been given nothing before this call."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended, and what follows for what it had been given.

    `reason`: why its parent killed it; None if it did not. `divided`: parts of a batch, to be
    called again one by one under the same leases. `suspects`: what is to run again apart, by queue.
    """

    exit_signal: str | None
    exit_code: int | None
    reason: str | None = None
    failed: list[tuple[Lease, dict[str, object]]] = field(default_factory=list)
    divided: list[list[Lease]] = field(default_factory=list)
    suspects: list[Suspects] = field(default_factory=list)
    unstarted: list[Lease] = field(default_factory=list)
    aborted: list[Lease] = field(default_factory=list)


def judge(
    death: Death, outs: Mapping[int, Out], guilty: Container[int], unstarted_from: float,
    error_type: str, message: str,
) -> None:  # fmt: skip
    """Fill in what becomes of `outs`: tickets from `unstarted_from` on had not been started.

    Of a guilty call with several tasks nobody knows which one it was: it is halved. What was in the
    same batch but not in the guilty call stays under its lease, too.
    """
    culprits: dict[int, list[Lease]] = {}
    for number, out in outs.items():
        if number in guilty:
            culprits.setdefault(out.call, []).append(out.lease)
    siblings: dict[int, list[Lease]] = {}
    for number, out in outs.items():
        if number in guilty:
            continue
        if out.call in culprits:
            siblings.setdefault(out.call, []).append(out.lease)
        elif number >= unstarted_from:
            death.unstarted.append(out.lease)
        else:
            death.aborted.append(out.lease)
    for suspects in culprits.values():
        if len(suspects) > 1:
            death.divided.extend(halves(suspects))
            continue
        death.failed.append((suspects[0], {
            "error_type": error_type, "error_message": message,
            "exit_signal": death.exit_signal, "exit_code": death.exit_code,
        }))  # fmt: skip
    death.divided.extend(siblings.values())


def calls_of(outs: Iterable[Out]) -> dict[LocalQueue, list[list[Lease]]]:
    """Return the leases of each call, by their local_queue."""
    calls: dict[int, list[Out]] = {}
    for out in outs:
        calls.setdefault(out.call, []).append(out)
    local_queues: dict[LocalQueue, list[list[Lease]]] = {}
    for call in calls.values():
        local_queues.setdefault(call[0].local_queue, []).append([out.lease for out in call])
    return local_queues


def suspect_all(death: Death, outs: Mapping[int, Out]) -> None:
    """Suspect every call: the loop died while no handler had it, so it may have been any."""
    for calls in calls_of(outs.values()).values():
        death.suspects.extend(Suspects(calls, asynchronous=True).halves())
