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
    field: pa.Field, feature: Feature, options: ColumnOptions
) -> tuple[pa.Field, str, str | None]:
    """Return the field with its final type, the source of the type, and a warning or None."""
    requested = options.types.get(field.name)
    if requested is not None:
        if not fits_name(feature, requested):
            raise InputError(
                f"--types {field.name}={requested} contradicts {options.model}, which was fitted "
                f"on {described(feature)} in this column",
                f"Leave {field.name} out of --types.",
            )
        return field_of(field, requested), "--types", None
    is_guessed = GUESSED in (field.metadata or {})
    if feature.kind == "anything":
        return field, "file" if is_guessed else "schema", None
    kind = kind_of(field.type)
    if is_guessed:
        return _guessed(field, feature, options)
    if (kind == "anything" and not pa.types.is_null(field.type)) or not fits(feature, kind):
        raise _differs(field, feature, options)
    if inner_kind(feature) in {"number", "integer", "boolean"}:
        field = _plain_number(field)
    return field, "model", _warning(field, feature, options)


def _guessed(
    field: pa.Field, feature: Feature, options: ColumnOptions
) -> tuple[pa.Field, str, str | None]:
    """Return a text file's column in the type that the model was fitted on, and a warning."""
    wanted, kind = inner_kind(feature), kind_of(field.type)
    if wanted == "text" and kind != "text":
        return field_of(field, "text"), "model", None
    if pa.types.is_null(field.type) or fits(feature, kind):
        return field, "model", _warning(field, feature, options)
    return (
        field_of(field, wanted_type(feature)),
        "model",
        f"{options.model} was fitted on {described(feature)}, but the input holds {plural(kind)} "
        f"in the column {field.name!r}: rows whose value cannot be converted will be dead",
    )


def _plain_number(field: pa.Field) -> pa.Field:
    """Return decimals as doubles, and a dictionary of numbers as its values."""
    type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return field.with_type(pa.float64() if pa.types.is_decimal(type_) else type_)


def _warning(field: pa.Field, feature: Feature, options: ColumnOptions) -> str | None:
    kind = kind_of(field.type)
    if inner_kind(feature) == "boolean" and kind in {"number", "integer"}:
        return (
            f"{options.model} was fitted on booleans, but the input holds {plural(kind)} in the "
            f"column {field.name!r}"
        )
    return None


def _differs(field: pa.Field, feature: Feature, options: ColumnOptions) -> InputError:
    remedy = f"Convert the column {field.name!r}"
    if inner_kind(feature) != "anything":
        remedy += f", or use --types {field.name}={wanted_type(feature)}"
    return InputError(
        f"{options.model} was fitted on {described(feature)}, but the input holds "
        f"{plural(kind_of(field.type))} in the column {field.name!r} ({field.type})",
        f"{remedy}.",
    )
