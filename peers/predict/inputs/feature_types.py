"""Decide the type of one column."""

from __future__ import annotations

import pyarrow as pa

from peers.predict.column_metadata import GUESSED
from peers.predict.errors import InputError
from peers.predict.inputs.column_kinds import (
    described,
    field_of,
    fits,
    fits_name,
    inner_kind,
    kind_of,
    plural,
    wanted_type,
)
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.signature import Feature


def feature_type(
    there: pa.Field, feature: Feature, options: ColumnOptions
) -> tuple[pa.Field, str, str | None]:
    """Return the field with its final type, the source of the type, and a warning or None."""
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
    return there, "model", _warning(there, feature, options)


def _guessed(
    there: pa.Field, feature: Feature, options: ColumnOptions
) -> tuple[pa.Field, str, str | None]:
    """Return a text file's column in the type that the model was fitted on, and a warning."""
    wanted, kind = inner_kind(feature), kind_of(there.type)
    if wanted == "text" and kind != "text":
        return field_of(there, "text"), "model", None
    if pa.types.is_null(there.type) or fits(feature, kind):
        return there, "model", _warning(there, feature, options)
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


def _warning(there: pa.Field, feature: Feature, options: ColumnOptions) -> str | None:
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
