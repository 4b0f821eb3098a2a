"""Look through an input once: what it is, its columns and how many rows it has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
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
    """What the user named: a file, a folder or a pattern, or the URL of a Postgres for `query`."""

    place: str
    query: str | None = None
    id_column: str | None = None
    text: TextOptions = field(default_factory=TextOptions)


class Survey(Protocol):
    """An input that was looked through.

    `schema`: its columns, by what it says of itself. `notes`: by column, a sentence where its type
    needs a reason. `digest`: of the contents; it may be waited for.
    """

    schema: pa.Schema
    rows: int
    notes: dict[str, str]

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of the contents; it may have to be waited for."""

    @abstractmethod
    def settle(self, schema: pa.Schema, folder: Path) -> InputRef:
        """Return the input with these of its columns in these types, to be read chunk by chunk.

        What is no Parquet file of the user's is kept in `folder`, and read from there.
        """


@contextmanager
def survey(source: Source, scratch: Path) -> Iterator[Survey]:
    """Look through the input; rows of a query or a text are kept in `scratch` until it is settled.

    Raises InputError.
    """
    if source.query is None:
        parts = _parquet(source.place)
        if parts is None:
            from peers.predict.inputs.text_survey import TextSurvey  # no peer needs it

            path = _path(source.place)
            with closing(TextSurvey(path, source.id_column, scratch, source.text)) as text:
                yield text
            return
        _refuse_options(source)
        with closing(ParquetSurvey(parts)) as found:
            yield found
        return
    _refuse_options(source)
    from peers.predict.inputs import query  # and the driver, which workers never need

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
            "Leave them out: Parquet and databases have types and gaps of their own.",
        )


def chunks(source: InputRef, size: int) -> list[Chunk]:
    """Cut the input into chunks of at most `size` rows.

    Whoever reads a chunk decodes its row group from the head. So a row group that is larger than a
    chunk is cut into even pieces, and several that are smaller make one, but none is cut for less.
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
            f"the input {place} is no file", "Peers read it again and again: write one first."
        )
    if "://" in place and not path.exists():
        raise InputError(
            f"the input {place.partition('://')[0]}://… is no file on a path of this machine",
            "Copy it to one that all hosts of the peers share, or mount it there.",
        )
    return [Part(path)] if format_of(path) == "parquet" else None


def _path(place: str) -> Path:
    return Path(place).expanduser().absolute()
