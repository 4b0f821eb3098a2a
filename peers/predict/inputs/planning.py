"""Survey an input once: its format, its columns and its number of rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pyarrow as pa

from peers.predict.errors import InputError
from peers.predict.inputs.files import format_of
from peers.predict.inputs.folders import Part, parts_of
from peers.predict.inputs.footers import footer_of
from peers.predict.inputs.parquet_survey import ParquetSurvey
from peers.predict.inputs.text_options import TextOptions
from peers.predict.spec import Chunk, InputRef


@dataclass(frozen=True, slots=True)
class Source:
    """The user's input: a file, a folder or a pattern, or the URL of a Postgres for `query`.

    `carry`: columns that are copied into the output.
    """

    place: str
    query: str | None = None
    id_column: str | None = None
    text: TextOptions = field(default_factory=TextOptions)
    carry: Sequence[str] = ()


class Survey(Protocol):
    """A surveyed input.

    `schema`: its columns, with its own types. `notes`: by column, why it has its type, if that is
    not obvious. `digest`: of the contents; reading it may wait.
    """

    schema: pa.Schema
    rows: int
    notes: dict[str, str]

    @property
    @abstractmethod
    def digest(self) -> str:
        """The digest of the contents. Reading it may wait."""

    @abstractmethod
    def with_types(self, schema: pa.Schema, folder: Path) -> InputRef:
        """Return the input with these of its columns in these types, to be read chunk by chunk.

        A text file or a query is written to a snapshot in `folder`, and read from there.
        """


@contextmanager
def survey(source: Source, scratch: Path) -> Iterator[Survey]:
    """Survey the input; rows of a query or a text file are stored in `scratch` meanwhile.

    Raises InputError.
    """
    if source.query is None:
        parts = _parquet(source.place)
        if parts is None:
            # imported here: the workers do not need it
            from peers.predict.inputs.text_survey import TextSurvey

            path = _path(source.place)
            with closing(
                TextSurvey(path, source.id_column, scratch, source.text, source.carry)
            ) as text:
                yield text
            return
        _refuse_options(source)
        with closing(ParquetSurvey(parts)) as found:
            yield found
        return
    _refuse_options(source)
    # imported here with its driver, which workers do not need
    from peers.predict.inputs import query

    rows = scratch / f"query-{uuid4().hex}.parquet"
    try:
        query.snapshot(source.place, source.query, rows, source.id_column)
        with closing(ParquetSurvey([Part(rows)], "query", is_ours=True)) as found:
            yield found
    finally:
        rows.unlink(missing_ok=True)


def _refuse_options(source: Source) -> None:
    if source.text != TextOptions():
        raise InputError(
            "options such as --csv-separator, --encoding and --na-values are for CSV and JSON",
            "Leave them out: Parquet and databases have their own types and missing values.",
        )


def chunks(source: InputRef, size: int) -> list[Chunk]:
    """Cut the input into chunks of at most `size` rows.

    Reading a chunk decodes its row group from the head. So a row group that is larger than a chunk
    is cut into even pieces, and several smaller ones make one chunk without being cut.
    """
    cut: list[int] = []
    room = 0
    for file in source.files:
        for rows in footer_of(Path(file.path)).groups:
            pieces = -(-rows // size)
            if 0 < rows <= room:
                cut[-1] += rows
                room -= rows
            elif rows:
                cut += [rows // pieces + (piece < rows % pieces) for piece in range(pieces)]
                room = size - rows if pieces == 1 else 0
    found: list[Chunk] = []
    first = 0
    for rows in cut:
        found.append(Chunk(len(found), first, rows))
        first += rows
    return found


def _parquet(place: str) -> list[Part] | None:
    """Return the files of a Parquet input; None if it is of another format."""
    parts = parts_of(place)
    if parts is not None:
        return parts
    path = _path(place)
    if path.exists() and not path.is_file():
        raise InputError(
            f"the input {place} is not a file",
            "Peers read the input several times: write it to a file first.",
        )
    if "://" in place and not path.exists():
        raise InputError(
            f"the input {place.partition('://')[0]}://… is not a file on a path of this machine",
            "Copy it to one that all hosts of the peers share, or mount it there.",
        )
    return [Part(path)] if format_of(path) == "parquet" else None


def _path(place: str) -> Path:
    return Path(place).expanduser().absolute()
