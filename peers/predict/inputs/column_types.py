"""Decide which columns a model gets, and the type of each for the whole input.

The model's own declaration comes first, then --types, then the schema of the input. The types that
are inferred from a text file come last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from peers.predict.column_metadata import GUESSED, INDEX
from peers.predict.errors import InputError
from peers.predict.inputs.column_kinds import (
    TypeName,
    described,
    field_of,
    fits,
    fits_name,
    inner_kind,
    kind_of,
    name_of,
    plural,
    wanted_type,
)
from peers.predict.signature import Feature, Signature

_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class ColumnOptions:
    """The user's options for columns. `beside`: ids, which are not features.

    `carry`: columns that are copied into the output. They are not features if the model takes
    fewer columns.
    """

    model: str
    types: Mapping[str, TypeName] = field(default_factory=dict)
    beside: Sequence[str] = ()
    carry: Sequence[str] = ()
    allow_nan: bool = False


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
    chosen = _chosen(signature, schema, options)
    wanted = signature.features or (signature.rest,) * len(chosen)
    optional = [one for one in signature.optional if one.name in schema.names]
    chosen, wanted = [*chosen, *(str(one.name) for one in optional)], (*wanted, *optional)
    fields: list[pa.Field] = []
    columns: list[Column] = []
    warnings: list[str] = []
    required: list[str] = []
    for name, feature in zip(chosen, wanted, strict=True):
        decided, source, warning = _decided(schema.field(name), feature, options)
        fields.append(decided)
        note = notes.get(name, "") if name_of(decided) == name_of(schema.field(name)) else ""
        if source == "model":  # --types cannot change what the model was fitted on
            note = note.partition("; --types")[0]
        columns.append(Column(name, name_of(decided), source, note))
        if warning is not None:
            why = notes.get(name)
            warnings.append(f"{warning} ({why})" if why else warning)
        if not options.allow_nan and _must_have_values(signature, feature):
            required.append(name)
    for name in dict.fromkeys((*options.beside, *options.carry)):
        if name in schema.names and name not in chosen:
            decided, source, _ = _decided(schema.field(name), Feature(), options)
            fields.append(decided)
            columns.append(Column(name, name_of(decided), source, "not a feature"))
    settled = pa.schema(fields, metadata=_without_index(schema.metadata))
    unused = [name for name in options.types if name not in settled.names]
    warnings += [f"--types {name}: the model does not take this column" for name in unused]
    return Decision(tuple(chosen), settled, tuple(required), tuple(columns), tuple(warnings))


def _check_names(options: ColumnOptions, schema: pa.Schema) -> None:
    unknown = [name for name in options.types if name not in schema.names]
    if unknown:
        raise InputError(
            f"--types names {_listed(unknown)}, which the input lacks",
            f"It has {_listed(schema.names)}.",
        )


def _must_have_values(signature: Signature, feature: Feature) -> bool:
    """Return whether a missing value is an error; an estimator may fill it itself."""
    if feature.accepts_missing is None:
        return not signature.is_estimator
    return not feature.accepts_missing


# ------------------------------------------------------------------------------- which columns


def _chosen(signature: Signature, schema: pa.Schema, options: ColumnOptions) -> list[str]:
    names = signature.names
    if names is not None and signature.form != "texts":
        return _by_name(signature, names, schema.names, options.model)
    free = [
        one.name
        for one in schema
        if one.name not in options.beside and INDEX not in (one.metadata or {})
    ]
    if not free:
        raise InputError("The input has no columns for the model", "Add those of the features.")
    if signature.features is None:
        return free
    wanted = len(signature.features)
    if len(free) > wanted:
        free = [name for name in free if name not in options.carry]
    if signature.form == "texts" and len(free) > 1:
        free = [name for name in free if _is_text(name, schema, options)] or free
    if len(free) != wanted:
        what = "one column of texts" if signature.form == "texts" else f"{wanted} columns"
        raise InputError(
            f"{options.model} takes {what}, but the input has {len(free)}: {_listed(free)}",
            "Remove columns that are not features; --id-column and --carry keep them as well"
            + (
                ", and --types COLUMN=text chooses the column of texts."
                if signature.form == "texts"
                else "."
            ),
        )
    return free


def _is_text(name: str, schema: pa.Schema, options: ColumnOptions) -> bool:
    if "text" in options.types.values():
        return options.types.get(name) == "text"
    return kind_of(schema.field(name).type) == "text"


def _by_name(
    signature: Signature, names: Sequence[str], there: Sequence[str], model: str
) -> list[str]:
    found: list[str] = []
    missing: list[str] = []
    for name in names:
        alike = [name] if name in there else []
        if not alike and signature.blanks_are_underscores:
            alike = [one for one in there if re.sub(r"\s", "_", one) == name]
        if len(alike) > 1:
            raise InputError(
                f"{model} takes a column {name!r}, but the input has {_listed(alike)}",
                "LightGBM writes _ for blanks. Rename the columns of the input so that one matches.",
            )
        (found if alike else missing).append(alike[0] if alike else name)
    if missing:
        raise InputError(
            f"The input lacks {_listed(missing)}, which {model} takes; it has "
            f"{_listed(there) or 'no columns'}",
            "Give the columns the names that they had when the model was trained.",
        )
    return found


def _without_index(metadata: Mapping[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """Return the metadata without the index, so that an index column stays a column."""
    if metadata is None or b"pandas" not in metadata:
        return dict(metadata) if metadata else None
    pandas = {**json.loads(metadata[b"pandas"]), "index_columns": []}
    return {**metadata, b"pandas": json.dumps(pandas).encode()}


# ---------------------------------------------------------------------------------- which type


def _decided(
    there: pa.Field, feature: Feature, options: ColumnOptions
) -> tuple[pa.Field, str, str | None]:
    """Return the field with its final type, the source of the type, and a warning."""
    asked = options.types.get(there.name)
    if asked is not None:
        if not fits_name(feature, asked):
            raise InputError(
                f"--types {there.name}={asked} contradicts {options.model}, which was fitted on "
                f"{described(feature)} in this column",
                f"Leave {there.name} out of --types.",
            )
        return field_of(there, asked), "--types", None
    is_guessed = GUESSED in (there.metadata or {})
    if feature.kind == "anything":
        return there, "file" if is_guessed else "schema", None
    kind = kind_of(there.type)
    if is_guessed:
        return _guessed(there, feature, options)
    if (kind == "anything" and not pa.types.is_null(there.type)) or not fits(feature, kind):
        raise _differs(there, feature, options)
    if inner_kind(feature) in {"number", "integer", "boolean"}:
        there = _plain_number(there)
    return there, "model", _doubt(there, feature, options)


def _guessed(
    there: pa.Field, feature: Feature, options: ColumnOptions
) -> tuple[pa.Field, str, str | None]:
    """Return a text file's column in the type that the model was fitted on, and a warning."""
    wanted, kind = inner_kind(feature), kind_of(there.type)
    if wanted == "text" and kind != "text":
        return field_of(there, "text"), "model", None
    if pa.types.is_null(there.type) or fits(feature, kind):
        return there, "model", _doubt(there, feature, options)
    return (
        field_of(there, wanted_type(feature)),
        "model",
        f"{options.model} was fitted on {described(feature)}, but the input holds {plural(kind)} "
        f"in the column {there.name!r}: rows whose value cannot be converted will be dead",
    )


def _plain_number(there: pa.Field) -> pa.Field:
    """Return decimals as doubles, and a dictionary of numbers as its values."""
    type_ = there.type.value_type if pa.types.is_dictionary(there.type) else there.type
    return there.with_type(pa.float64() if pa.types.is_decimal(type_) else type_)


def _doubt(there: pa.Field, feature: Feature, options: ColumnOptions) -> str | None:
    kind = kind_of(there.type)
    if inner_kind(feature) == "boolean" and kind in {"number", "integer"}:
        return (
            f"{options.model} was fitted on booleans, but the input holds {plural(kind)} in the "
            f"column {there.name!r}"
        )
    return None


def _differs(there: pa.Field, feature: Feature, options: ColumnOptions) -> InputError:
    remedy = f"Convert the column {there.name!r}"
    if inner_kind(feature) != "anything":
        remedy += f", or use --types {there.name}={wanted_type(feature)}"
    return InputError(
        f"{options.model} was fitted on {described(feature)}, but the input holds "
        f"{plural(kind_of(there.type))} in the column {there.name!r} ({there.type})",
        f"{remedy}.",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
