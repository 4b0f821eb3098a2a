"""What a chunk's worker notes on disk, for the attempt that comes after its death.

A batch that was in the model when the worker died is suspected: its rows are run as tasks of their
own. One that raised was handed over to them already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from peers.predict.outputs.durable import storage_failed

_LENGTH: Final = 1024
"""Enough for the most killers that a chunk has attempts for."""


class Journal:
    """The notes of one chunk: which batch is in the model, and which killed earlier attempts.

    A batch is named by the index of its first row within the chunk.
    """

    def __init__(self, folder: Path, chunk: int) -> None:
        self._path = folder / f"chunk-{chunk:06d}.journal"
        self._killers: list[int] = []
        self._file: int | None = None

    def reopen(self, *, died: bool) -> frozenset[int]:
        """The batches during which earlier attempts ended; `died`: the last one did, too."""
        try:
            noted: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # it died while it wrote: nothing was in the model
            return frozenset()
        self._killers = noted["killers"]
        running = noted["running"]
        if died and running is not None and running not in self._killers:
            self._killers.append(running)
        return frozenset(self._killers)

    @contextmanager
    def entered(self, batch: int) -> Iterator[None]:
        """While this batch is in the model; an exception of it is not the end of the process."""
        self._write(batch)
        try:
            yield
        except Exception:
            self._write(None)
            raise
        self._write(None)

    def close(self) -> None:
        """The chunk is done."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._path.unlink(missing_ok=True)

    def __del__(self) -> None:
        """An attempt that failed leaves its notes."""
        if self._file is not None:
            os.close(self._file)

    def _write(self, running: int | None) -> None:
        # whole in one call, and always of the same length; no fsync: it shall outlive the process,
        # not the machine
        text = json.dumps({"running": running, "killers": self._killers})
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(self._file, text.ljust(_LENGTH).encode(), 0)
        except OSError as error:
            raise storage_failed(self._path, error) from error
