"""Find the categories of an input, which all chunks share, although row groups have their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from peers.predict.atomic_files import atomic_write
from peers.predict.errors import InputError
from peers.predict.inputs.files import unchanged
from peers.predict.inputs.forward import streaming
from peers.predict.spec import DataFile

CATEGORIES: Final = "categories.arrow"
"""The file in the run's folder."""
_AT_ONCE: Final = 1 << 16


def gathered(
    files: Sequence[DataFile], fields: Sequence[pa.Field], *, ordered_by_value: bool
) -> dict[str, pa.Array]:
    """Return the categories of these columns over all files.

    Categories of dictionary columns are in their order of appearance, as pandas joins them. Those
    of other columns, and all if `ordered_by_value`, are sorted, as `astype("category")` does.
    """
    found = {field.name: pa.array([], field.type.value_type) for field in fields}
    has_own: set[str] = set()
    for batch in _batches(files, list(found)):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in found:
                if kinds.is_dictionary(column.type):
                    has_own.add(name)
                found[name] = _joined(found[name], column)
    return {
        name: values if name in has_own and not ordered_by_value else _sorted(values)
        for name, values in found.items()
    }


def of_partition(files: Sequence[DataFile], field: pa.Field) -> pa.Array:
    """Return the categories of a column whose values are in the files' partitions."""
    values = [dict(file.partition)[field.name] for file in files]
    return pa.array(values, field.type.value_type).drop_null().unique()


def place(folder: Path, fields: Sequence[pa.Field]) -> str | None:
    """Return the file that has the categories of these columns already, if there is one."""
    path = folder / CATEGORIES
    if not fields or not path.exists():
        return None
    there = {name: values.type for name, values in kept(str(path)).items()}
    wanted = {field.name: field.type.value_type for field in fields}
    return str(path) if wanted.items() <= there.items() else None


def keep(categories: dict[str, pa.Array], folder: Path) -> str:
    """Write the categories into the run's folder; return the path of the file."""
    path = folder / CATEGORIES
    columns = [
        pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
        for values in categories.values()
    ]
    table = pa.table(columns, names=list(categories))
    with atomic_write(path) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table)
    kept.cache_clear()
    return str(path)


@lru_cache(maxsize=4)
def kept(path: str) -> dict[str, pa.Array]:
    """Return the categories that `keep` wrote. Raises InputError."""
    try:
        with pa.OSFile(path) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"the categories of the input cannot be read: {error}") from error
    return {name: table.column(name)[0].values for name in table.column_names}


def encoded(
    column: pa.ChunkedArray, categories: pa.Array, type_: pa.DictionaryType
) -> pa.ChunkedArray:
    """Return the column as codes of these categories."""
    chunks = [_encoded(chunk, categories, is_ordered=type_.ordered) for chunk in column.chunks]
    return pa.chunked_array(chunks, type_)


def _encoded(chunk: pa.Array, categories: pa.Array, *, is_ordered: bool) -> pa.Array:
    if not kinds.is_dictionary(chunk.type):
        chunk = chunk.dictionary_encode()
    places = chunk.indices.cast(pa.int32())
    own = chunk.dictionary.cast(categories.type)
    if not own.equals(categories):
        places = pc.index_in(own, value_set=categories, skip_nulls=True).take(places)
    return pa.DictionaryArray.from_arrays(places, categories, ordered=is_ordered)


def _batches(files: Sequence[DataFile], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for data in files:
        with unchanged(data):
            try:
                with streaming(data.path) as file:
                    present = [name for name in names if name in file.schema_arrow.names]
                    if present:
                        yield from file.iter_batches(_AT_ONCE, columns=present, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{data.path} cannot be read: {error}") from error


def _joined(known: pa.Array, column: pa.Array) -> pa.Array:
    own = column.dictionary if kinds.is_dictionary(column.type) else column.unique()
    own = own.cast(known.type)
    if own.equals(known):
        return known
    new = own.filter(pc.and_(pc.is_valid(own), pc.invert(pc.is_in(own, value_set=known))))
    return pa.concat_arrays([known, new.unique()]) if len(new) else known


def _sorted(values: pa.Array) -> pa.Array:
    try:
        return values.take(pc.sort_indices(values))
    except pa.ArrowNotImplementedError:
        return values
