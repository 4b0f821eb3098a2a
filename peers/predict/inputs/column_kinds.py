"""Map Arrow types, the type names of users, and the features of models to kinds of columns."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa

from peers.predict.column_metadata import TYPE
from peers.predict.signature import Feature, Kind

TypeName: TypeAlias = Literal[
    "text", "integer", "number", "boolean", "category", "timestamp", "date", "json"
]

ARROW: Final[dict[TypeName, pa.DataType]] = {
    "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
    "category": pa.dictionary(pa.int32(), pa.string()), "timestamp": pa.timestamp("us"),
    "date": pa.date32(), "json": pa.string(),
}  # fmt: skip
_TEXTS: Final = frozenset({pa.string(), pa.large_string(), pa.string_view()})
_NUMERIC: Final = frozenset({"number", "integer", "boolean"})
_OF_NAME: Final[dict[TypeName, Kind]] = {
    "text": "text", "integer": "integer", "number": "number", "boolean": "boolean",
    "category": "text", "timestamp": "time", "date": "time", "json": "anything",
}  # fmt: skip
_AS: Final[dict[Kind, TypeName]] = {
    "number": "number", "integer": "integer", "boolean": "boolean", "text": "text",
    "time": "timestamp",
}  # fmt: skip
_PLURAL: Final[dict[Kind, str]] = {
    "number": "numbers", "integer": "whole numbers", "boolean": "booleans", "text": "texts",
    "category": "categories", "time": "times", "anything": "anything",
}  # fmt: skip


def kind_of(type_: pa.DataType) -> Kind:
    """Return the kind of the values of an Arrow type, or of its dictionary."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if is_text(type_):
        return "text"
    return "time" if pa.types.is_temporal(type_) else "anything"


def is_text(type_: pa.DataType) -> bool:
    """Return whether the type's values are texts."""
    return type_ in _TEXTS


def name_of(field: pa.Field) -> str:
    """Return the type's name for people: one of --types if possible, otherwise Arrow's."""
    marked = (field.metadata or {}).get(TYPE)
    if marked is not None:
        return str(marked.decode())
    if pa.types.is_dictionary(field.type):
        return "category"
    if pa.types.is_null(field.type):
        return "no values"
    if pa.types.is_date(field.type):
        return "date"
    kind = kind_of(field.type)
    return str(field.type) if kind in {"anything", "time"} else kind


def field_of(field: pa.Field, requested: TypeName) -> pa.Field:
    """Return the field in the requested type; unchanged if its type is of this kind."""
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != TYPE}
    if name_of(field) == requested:
        return field
    if requested == "json":
        metadata[TYPE] = requested.encode()
    return pa.field(field.name, ARROW[requested], metadata=metadata or None)


def wanted_type(feature: Feature) -> TypeName:
    """Return the type that texts are converted to for this feature of a model."""
    return _AS.get(inner_kind(feature), "text")


def inner_kind(feature: Feature) -> Kind:
    """Return the kind of the feature's values; categories are texts or numbers."""
    if feature.kind != "category":
        return feature.kind
    types = {type(value) for value in feature.categories or ()}
    for type_, kind in _CATEGORY_KINDS.items():
        if types == {type_}:
            return kind
    return "anything"


_CATEGORY_KINDS: Final[dict[type[Any], Kind]] = {
    str: "text", bool: "boolean", int: "integer", float: "number",
}  # fmt: skip


def fits(feature: Feature, kind: Kind) -> bool:
    """Return whether values of this kind fit the feature that the model was fitted on."""
    wanted = inner_kind(feature)
    return "anything" in {wanted, kind} or wanted == kind or {wanted, kind} <= _NUMERIC


def fits_name(feature: Feature, requested: TypeName) -> bool:
    """Return whether a requested type fits the feature that the model was fitted on."""
    if inner_kind(feature) == "anything":
        return True
    return requested != "json" and fits(feature, _OF_NAME[requested])


def described(feature: Feature) -> str:
    """Describe what the model was fitted on, with examples if it keeps some."""
    examples = ", ".join(repr(value) for value in feature.known)
    return _PLURAL[feature.kind] + (f" such as {examples}" if examples else "")


def plural(kind: Kind) -> str:
    """Return the plural name of the kind."""
    return _PLURAL[kind]
