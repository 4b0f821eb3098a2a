"""Look through an input once: what it is, its columns and how many rows it has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError
from peers.predict.inputs import query
from peers.predict.inputs.files import digest_of, format_of, opened, reference
from peers.predict.inputs.text_survey import SNAPSHOT, TextSurvey
from peers.predict.spec import Chunk, InputRef

_EMPTY_HINT: Final = "There is nothing to predict."


@dataclass(frozen=True, slots=True)
class Source:
    """What the user named: a file, or the URL of a Postgres for `query`."""

    place: str
    query: str | None = None
    id_column: str | None = None


class Survey(Protocol):
    """An input that was looked through. `schema`: its columns, by what it says of itself."""

    schema: pa.Schema
    rows: int
    digest: str

    @abstractmethod
    def settle(self, schema: pa.Schema, folder: Path) -> InputRef:
        """Return the input with these of its columns in these types, to be read chunk by chunk.

        What is no Parquet file of the user's is kept in `folder`, and read anew from there.
        """


@contextmanager
def survey(source: Source, scratch: Path) -> Iterator[Survey]:
    """Look through the input; a query's rows are kept under `scratch` until it is settled.

    Raises InputError.
    """
    if source.query is None:
        path = Path(source.place).expanduser().absolute()
        yield _Parquet(path) if format_of(path) == "parquet" else TextSurvey(path, source.id_column)
        return
    rows = scratch / f"query-{uuid4().hex}.parquet"
    try:
        query.snapshot(source.place, source.query, rows, source.id_column)
        yield _Parquet(rows, is_ours=True)
    finally:
        rows.unlink(missing_ok=True)


def chunks(source: InputRef, size: int) -> list[Chunk]:
    """Cut the input into chunks of `size` rows; the last one may have fewer."""
    firsts = range(0, source.rows, size)
    return [
        Chunk(number, first, min(size, source.rows - first)) for number, first in enumerate(firsts)
    ]


class _Parquet:
    """A Parquet file; `is_ours`: a snapshot of our own, which moves to where the run keeps it."""

    def __init__(self, path: Path, *, is_ours: bool = False) -> None:
        self._path, self._is_ours = path, is_ours
        with opened(path):
            self.schema, self.rows = _parquet(path)
        self.digest = digest_of(path)
        if not self.rows:
            raise InputError(f"the input {path} has no rows", _EMPTY_HINT)

    def settle(self, schema: pa.Schema, folder: Path) -> InputRef:
        path = self._path
        if self._is_ours:
            path = folder / SNAPSHOT
            if not path.exists():
                self._path.replace(path)
        return reference(self.digest, schema, path, self.rows)


def _parquet(path: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from error
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(
            f"the input {path} names {', '.join(twice)} twice",
            "Give each column a name of its own.",
        )
    return schema, rows
