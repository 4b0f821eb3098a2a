"""Choose the columns of the input that are the model's features."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from peers.predict.column_metadata import INDEX
from peers.predict.errors import InputError
from peers.predict.inputs.column_kinds import kind_of
from peers.predict.inputs.column_options import ColumnOptions, listed
from peers.predict.signature import Signature


def feature_columns(signature: Signature, schema: pa.Schema, options: ColumnOptions) -> list[str]:
    """Return the names of the features, in the model's order. Raises InputError."""
    names = signature.names
    if names is not None and signature.form != "texts":
        return _by_name(signature, names, schema.names, options.model)
    free = [
        one.name
        for one in schema
        if one.name not in options.ids and INDEX not in (one.metadata or {})
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
            f"{options.model} takes {what}, but the input has {len(free)}: {listed(free)}",
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
                f"{model} takes a column {name!r}, but the input has {listed(alike)}",
                "LightGBM writes _ for blanks. Rename the input's columns so that one matches.",
            )
        (found if alike else missing).append(alike[0] if alike else name)
    if missing:
        raise InputError(
            f"The input lacks {listed(missing)}, which {model} takes; it has "
            f"{listed(there) or 'no columns'}",
            "Give the columns the names that they had when the model was trained.",
        )
    return found
