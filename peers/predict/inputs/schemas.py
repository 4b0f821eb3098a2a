"""Merge the schemas of all files of a Parquet input."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as kinds

from peers.predict.column_metadata import INDEX, NULLS, PARTITION, READER, YES
from peers.predict.errors import InputError

_PANDAS: Final = b"pandas"


def unified(
    files: Sequence[tuple[Path, pa.Schema]], partition: Mapping[str, pa.Array]
) -> tuple[pa.Schema, dict[str, str]]:
    """Return the common schema of all files, and notes on the columns that differ.

    A column that a file lacks is null there. Numbers become as wide as needed. Raises InputError,
    which names file and column, if two types have nothing in common.
    """
    metadata = files[0][1].metadata
    fields: dict[str, pa.Field] = {}
    origin: dict[str, Path] = {}
    notes: dict[str, str] = {}
    before: pa.Schema | None = None
    for path, schema in files:
        if before is not None and schema.equals(before):
            continue
        before = schema
        _check_names(path, schema, partition)
        for field in schema:
            known = fields.setdefault(field.name, field)
            first = origin.setdefault(field.name, path)
            if known.type != field.type:
                wide = _wider(known.type, field.type)
                if wide is None:
                    raise _conflict(field.name, (first, known.type), (path, field.type))
                fields[field.name] = known.with_type(wide)
                notes[field.name] = f"{wide}, because files differ: {path.name} has {field.type}"
    for name, values in partition.items():
        type_ = pa.dictionary(pa.int32(), values.type)
        fields[name] = pa.field(name, type_, metadata={PARTITION: YES})
        notes[name] = "category, from the names of the folders"
    return pa.schema(list(fields.values()), metadata=metadata), notes


def marked(schema: pa.Schema, gaps: Collection[str], reader: str) -> pa.Schema:
    """Return the schema with metadata: index fields, fields with missing values, and its reader."""
    index = _index_columns(schema.metadata)
    fields = []
    for field in schema:
        added = {INDEX: YES} if field.name in index else {}
        if field.name in gaps:
            added[NULLS] = YES
        fields.append(_with_metadata(field, added).with_nullable(True))
    return pa.schema(fields, metadata={**(schema.metadata or {}), READER: reader.encode()})


def decided(own: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    """Return the wanted fields in the wanted types, with their metadata.

    Pandas' metadata about the dtype of a column stays if its type does. No column becomes an index.
    """
    metadata = {**(own.metadata or {}), **(wanted.metadata or {})}
    found = _pandas(metadata)
    if found is not None:
        same = {one.name for one in wanted if _is_same_kind(one.type, own.field(one.name).type)}
        found["index_columns"] = []
        for column in found["columns"]:
            name = column.get("field_name", column["name"])
            if name not in same:
                column["numpy_type"] = "object"  # which to_pandas() ignores
            if column["name"] is None:  # the name of an unnamed index
                column["name"] = name
        metadata[_PANDAS] = json.dumps(found).encode()
    fields = [
        _with_metadata(own.field(one.name), one.metadata).with_type(one.type) for one in wanted
    ]
    return pa.schema(fields, metadata=metadata)


def _with_metadata(field: pa.Field, added: Mapping[bytes, bytes] | None) -> pa.Field:
    return field.with_metadata({**(field.metadata or {}), **(added or {})})


def _is_same_kind(one: pa.DataType, other: pa.DataType) -> bool:
    if kinds.is_dictionary(one) and kinds.is_dictionary(other):
        return bool(one.value_type == other.value_type)
    return bool(one == other)


def _pandas(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any] | None:
    text = (metadata or {}).get(_PANDAS)
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    found.setdefault("columns", [])
    return found


def _index_columns(metadata: Mapping[bytes, bytes] | None) -> set[str]:
    """Return the columns that hold an index; a range has no column."""
    found = _pandas(metadata) or {}
    return {name for name in found.get("index_columns", []) if isinstance(name, str)}


def _check_names(path: Path, schema: pa.Schema, partition: Mapping[str, pa.Array]) -> None:
    names = schema.names
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(
            f"the input {path} names {', '.join(twice)} twice",
            "Give each column a name of its own.",
        )
    both = [name for name in names if name in partition]
    if both:
        raise InputError(
            f"{path} has a column {both[0]!r}, which the names of its folders have as well",
            "Rename the folders or the column.",
        )


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both; None if they are of different kinds."""
    if kinds.is_null(one) or kinds.is_null(other):
        return other if kinds.is_null(one) else one
    if kinds.is_dictionary(one) != kinds.is_dictionary(other):
        plain = one.value_type if kinds.is_dictionary(one) else one
        return _wider(plain, other.value_type if kinds.is_dictionary(other) else other)
    if kinds.is_dictionary(one):
        values = _wider(one.value_type, other.value_type)
        return values and pa.dictionary(pa.int32(), values, one.ordered and other.ordered)
    if _is_number(one) and _is_number(other) and kinds.is_integer(one) != kinds.is_integer(other):
        return pa.float64()
    if not any(is_kind(one) and is_kind(other) for is_kind in _KINDS):
        return None
    fields = [pa.schema([("x", type_)]) for type_ in (one, other)]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _is_number(type_: pa.DataType) -> bool:
    return bool(kinds.is_integer(type_) or kinds.is_floating(type_))


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_string_view(type_)
    )


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(kinds.is_binary(type_) or kinds.is_large_binary(type_))


_KINDS: Final = (
    kinds.is_integer, kinds.is_floating, kinds.is_decimal, _is_text, _is_bytes,
    kinds.is_timestamp, kinds.is_time, kinds.is_date, kinds.is_duration,
    kinds.is_list, kinds.is_large_list, kinds.is_struct,
)  # fmt: skip


def _conflict(
    name: str, one: tuple[Path, pa.DataType], other: tuple[Path, pa.DataType]
) -> InputError:
    return InputError(
        f"the column {name!r} is {other[1]} in {other[0]}, and {one[1]} in {one[0]}",
        "A column must have one type in all files: write one of the files again.",
    )
