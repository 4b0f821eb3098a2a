"""Decide which columns a model gets, and the type of each for the whole input.

The model's own declaration comes first, then --types, then the schema of the input. The types that
are inferred from a text file come last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from peers.predict.column_metadata import ZEROS
from peers.predict.errors import InputError
from peers.predict.inputs.column_kinds import field_of, name_of
from peers.predict.inputs.column_options import ColumnOptions, listed
from peers.predict.inputs.feature_columns import feature_columns
from peers.predict.inputs.feature_types import feature_type
from peers.predict.signature import Feature, Signature


@dataclass(frozen=True, slots=True)
class Column:
    """A column's type, for people. `source`: model, --types, schema or file."""

    name: str
    type: str
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The columns that the model gets. `features`: the input's names, in the model's order.

    `schema`: the fields to read, features first. `required`: features that must have a value in
    each row.
    """

    features: tuple[str, ...]
    schema: pa.Schema
    required: tuple[str, ...]
    columns: tuple[Column, ...]
    warnings: tuple[str, ...]


def decide(
    signature: Signature, schema: pa.Schema, options: ColumnOptions, notes: Mapping[str, str]
) -> Decision:
    """Return the columns and types that the model gets, and the other columns that are read.

    `notes`: why a text file's column has its type. Raises InputError, which names a column that is
    missing, superfluous, or of another kind than the model was fitted on.
    """
    _check_names(options, schema)
    chosen = feature_columns(signature, schema, options)
    wanted = signature.features or (signature.rest,) * len(chosen)
    optional = [one for one in signature.optional if one.name in schema.names]
    chosen, wanted = [*chosen, *(str(one.name) for one in optional)], (*wanted, *optional)
    fields: list[pa.Field] = []
    columns: list[Column] = []
    warnings: list[str] = []
    required: list[str] = []
    for name, feature in zip(chosen, wanted, strict=True):
        decided, source, warning = feature_type(schema.field(name), feature, options)
        fields.append(decided)
        note = _note(notes, decided, schema)
        if source == "model":  # --types cannot change what the model was fitted on
            note = note.partition("; --types")[0]
        columns.append(Column(name, name_of(decided), source, note))
        if warning is not None:
            why = notes.get(name)
            warnings.append(f"{warning} ({why})" if why else warning)
        if not options.allow_nan and _must_have_values(signature, feature):
            required.append(name)
    for name in dict.fromkeys((*options.ids, *options.carry)):
        if name in schema.names and name not in chosen:
            decided, column = _copied(schema.field(name), options)
            fields.append(decided)
            columns.append(column)
    settled = pa.schema(fields, metadata=_without_index(schema.metadata))
    unused = [name for name in options.types if name not in settled.names]
    warnings += [f"--types {name}: the model does not take this column" for name in unused]
    return Decision(tuple(chosen), settled, tuple(required), tuple(columns), tuple(warnings))


def _note(notes: Mapping[str, str], decided: pa.Field, schema: pa.Schema) -> str:
    """Return why the file's column has its type, if it keeps that type."""
    same = name_of(decided) == name_of(schema.field(decided.name))
    return notes.get(decided.name, "") if same else ""


def _copied(field: pa.Field, options: ColumnOptions) -> tuple[pa.Field, Column]:
    """Return a column that is not a feature; numbers such as 0042 are copied as texts."""
    decided, source, _ = feature_type(field, Feature(), options)
    note, zero = "not a feature", (decided.metadata or {}).get(ZEROS)
    if zero is not None and source == "file":
        decided = field_of(decided, "text")
        note += f"; text, because a value is {zero.decode()}"
    return decided, Column(field.name, name_of(decided), source, note)


def _check_names(options: ColumnOptions, schema: pa.Schema) -> None:
    unknown = [name for name in options.types if name not in schema.names]
    if unknown:
        raise InputError(
            f"--types names {listed(unknown)}, which the input lacks",
            f"It has {listed(schema.names)}.",
        )


def _must_have_values(signature: Signature, feature: Feature) -> bool:
    """Return whether a missing value is an error; an estimator may fill it itself."""
    if feature.accepts_missing is None:
        return not signature.is_estimator
    return not feature.accepts_missing


def _without_index(metadata: Mapping[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """Return the metadata without the index, so that an index column stays a column."""
    if metadata is None or b"pandas" not in metadata:
        return dict(metadata) if metadata else None
    pandas = {**json.loads(metadata[b"pandas"]), "index_columns": []}
    return {**metadata, b"pandas": json.dumps(pandas).encode()}
