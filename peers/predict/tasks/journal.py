"""What a chunk's worker notes on disk, for the attempt that comes after its death.

A batch that was in the model when the worker died is suspected: a later attempt goes through its
rows in smaller batches, or runs them as tasks of their own. One that raised was handed over to them
already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from peers.predict.outputs.durable import storage_failed

_LENGTH: Final = 1024
"""Bytes, or a multiple: what is written is never shorter than what it overwrites."""


class Batch(NamedTuple):
    """Rows of a chunk that were in the model together; `first` is an index within the chunk."""

    first: int
    rows: int


class Journal:
    """The notes of one chunk: which batch is in the model, and which killed earlier attempts."""

    def __init__(self, folder: Path, chunk: int) -> None:
        self._path = folder / f"chunk-{chunk:06d}.journal"
        self._killers: list[Batch] = []
        self._killers_text = "[]"
        self._length = _LENGTH
        self._file: int | None = None

    def reopen(self, *, died: bool) -> Sequence[Batch]:
        """Return the batches during which earlier attempts ended; `died`: the last one did, too."""
        try:
            noted: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # it died while it wrote: nothing was in the model
            return ()
        self._killers = [Batch(*each) for each in noted["killers"]]
        running = noted["running"]
        if died and running is not None and Batch(*running) not in self._killers:
            self._killers.append(Batch(*running))
        self._killers_text = json.dumps(self._killers)
        return tuple(self._killers)

    @contextmanager
    def entered(self, batch: Batch) -> Iterator[None]:
        """While this batch is in the model; an exception of it is not the end of the process."""
        self._write(json.dumps(batch))
        try:
            yield
        except Exception:
            self._write("null")
            raise
        self._write("null")

    def close(self) -> None:
        """Remove the file: the chunk is done."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._path.unlink(missing_ok=True)

    def __del__(self) -> None:
        """An attempt that failed leaves its notes."""
        if self._file is not None:
            os.close(self._file)

    def _write(self, running: str) -> None:
        # whole in one call, and never shorter than before; no fsync: it must outlive the process,
        # not the machine
        text = f'{{"running": {running}, "killers": {self._killers_text}}}'
        self._length = max(self._length, -(-len(text) // _LENGTH) * _LENGTH)
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(self._file, text.ljust(self._length).encode(), 0)
        except OSError as error:
            raise storage_failed(self._path, error) from error
