"""Mark on disk which batch is in the model, for the attempt that follows a worker's death.

A batch that was in the model when the worker died may contain the row that killed it. A later
attempt calls the model with its rows in smaller batches, or gives them tasks of their own. A batch
that raised needs no mark: its failing rows are isolated already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from peers.predict.atomic_files import storage_failed

_LENGTH: Final = 1024
"""Bytes, or a multiple: a mark is never shorter than the one that it overwrites."""


class Batch(NamedTuple):
    """Rows of a chunk that are in the model together; `first` is an index within the chunk."""

    first: int
    rows: int


class BatchMarker:
    """The file of one chunk: the batch in the model, and the batches that killed attempts."""

    def __init__(self, folder: Path, chunk: int) -> None:
        self._path = folder / f"chunk-{chunk:06d}.running"
        self._crashed: list[Batch] = []
        self._crashed_text = "[]"
        self._length = _LENGTH
        self._file: int | None = None

    def crashed_batches(self, *, died: bool) -> Sequence[Batch]:
        """Return the batches during which attempts died; `died`: the last attempt did as well."""
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # it died while it wrote: the model was not called
            return ()
        self._crashed = [Batch(*each) for each in found["crashed"]]
        running = found["running"]
        if died and running is not None and Batch(*running) not in self._crashed:
            self._crashed.append(Batch(*running))
        self._crashed_text = json.dumps(self._crashed)
        return tuple(self._crashed)

    @contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """Mark this batch as running during the block; an exception removes the mark."""
        self._write(json.dumps(batch))
        try:
            yield
        except Exception:
            self._write("null")
            raise
        self._write("null")

    def remove(self) -> None:
        """Remove the file: the chunk is done."""
        self._close()
        self._path.unlink(missing_ok=True)

    def __del__(self) -> None:
        """Keep the file of an attempt that failed."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, running: str) -> None:
        # One write, never shorter than before. No fsync: the mark must outlive the process, not the
        # machine.
        text = f'{{"running": {running}, "crashed": {self._crashed_text}}}'
        self._length = max(self._length, -(-len(text) // _LENGTH) * _LENGTH)
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(self._file, text.ljust(self._length).encode(), 0)
        except OSError as error:
            raise storage_failed(self._path, error) from error
