"""Compose the environment of a worker process.

BLAS, OpenMP and CUDA read it once, when they are loaded, so it must be complete when the process
starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_WORKER_ENV: Final = "PEERS_WORKER_ENV"
_WORKER: Final = "_PEERS_WORKER"
"""Set in workers only, so that modules can find out whether they run in one."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the workers of a peer get beyond the peer's own environment.

    `threads`: None divides the cores by the `slots` workers, unless the peer's own environment sets
    OMP_NUM_THREADS or its like. `gpus`: each worker gets one of them in turn, whatever
    CUDA_VISIBLE_DEVICES the peer has; without any, that variable stays as it is. `variables` win
    over the peer's own environment; `threads` and `gpus` win over both.
    """

    slots: int = 1
    threads: int | None = None
    gpus: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Environment:
        """Return the environment that the settings describe."""
        return cls(
            sum(settings.queues.values()), settings.worker_threads, settings.gpus,
            settings.worker_env,
        )  # fmt: skip

    def gpu(self, slot: int) -> str | None:
        """Return the GPU of this slot. Nothing else differs between the slots' environments."""
        return self.gpus[slot % len(self.gpus)] if self.gpus else None

    def of_slot(self, slot: int, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the whole environment of the worker in this slot, counted from 0."""
        share = max(1, len(os.sched_getaffinity(0)) // max(1, self.slots))
        own = dict(self.variables)
        if own:  # settings that are read in a worker accept the same variables
            own.setdefault(_WORKER_ENV, _joined(own))
        if self.threads:
            own |= dict.fromkeys(_THREADS, str(self.threads))
        gpu = self.gpu(slot)
        if gpu is not None:
            own[_GPUS] = gpu
        own[_WORKER] = "1"
        return {**dict.fromkeys(_THREADS, str(share)), **inherited, **own}


def _joined(variables: dict[str, str]) -> str:
    from peers.settings import join_variables  # imported late, because it is slow to import

    return join_variables(variables)
