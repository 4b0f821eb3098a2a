"""The environment of a worker process: its share of the machine, and what it may trust.

BLAS, OpenMP and CUDA read it once, when they are loaded; so it must be right from the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from peers.settings import Settings

_THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_GPUS: Final = "CUDA_VISIBLE_DEVICES"
_TRUST: Final = "PEERS_PREDICT_TRUST"
_BATCH_WAIT: Final = "PEERS_PREDICT_BATCH_WAIT"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the workers of a peer get beyond its own environment.

    `threads`: None shares the cores out among `slots` workers, unless the peer's own environment
    says how many, such as OMP_NUM_THREADS=4. `gpus`: each worker gets one of them in turn, whatever
    CUDA_VISIBLE_DEVICES the peer has; if there are none, that one stays. `predict_trust` and
    `predict_batch_wait` (seconds) are what counts in the end: a flag that trusts less than the
    environment must not be undone by it.
    """

    slots: int = 1
    threads: int | None = None
    gpus: tuple[str, ...] = ()
    predict_trust: tuple[str, ...] = ()
    predict_batch_wait: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Environment:
        """Return what the settings say."""
        return cls(
            sum(settings.queues.values()), settings.worker_threads, settings.gpus,
            settings.predict_trust, settings.predict_batch_wait.total_seconds(),
        )  # fmt: skip

    def gpu(self, slot: int) -> str | None:
        """The GPU of this slot: nothing else tells the environments of slots apart."""
        return self.gpus[slot % len(self.gpus)] if self.gpus else None

    def of_slot(self, slot: int, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The whole environment of the worker in this slot, counted from 0."""
        share = max(1, len(os.sched_getaffinity(0)) // max(1, self.slots))
        told = {
            _TRUST: ",".join(self.predict_trust),
            _BATCH_WAIT: str(self.predict_batch_wait),
        }
        if self.threads:
            told |= dict.fromkeys(_THREADS, str(self.threads))
        gpu = self.gpu(slot)
        if gpu is not None:
            told[_GPUS] = gpu
        return {**dict.fromkeys(_THREADS, str(share)), **inherited, **told}
