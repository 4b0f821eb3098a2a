"""Make data frames with the dtypes that pandas gives when it reads the whole input.

pandas decides a column's dtype by the whole column: integers with a missing value anywhere become
floats. A chunk must look like the same rows of the whole input. So the run's schema says for each
column whether values are missing (`peers.nulls`), and which reader is imitated (`peers.reader`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from peers.predict.column_metadata import ALL, BY_VALUES, NULLS, READER, is_json
from peers.predict.models.columns import is_number, matrix
from peers.predict.models.plain_rows import plain_rows
from peers.predict.signature import Feature, Signature

if TYPE_CHECKING:
    import pandas as pd


def argument(table: pa.Table, signature: Signature) -> Any:
    """Return these rows in the form that the model was fitted on.

    Models like those of scikit-learn treat data frames and arrays differently: they pick columns by
    name, and recognize categories by dtype.
    """
    if signature.form == "rows":
        return plain_rows(table)
    if signature.form == "table":
        return table
    if signature.form == "matrix" and not any(map(_is_other, table.schema.types)):
        return matrix(table)
    features = signature.features or ()
    known = dict(zip(table.column_names, features, strict=False))
    names = signature.names or table.column_names
    made = frame(table, known, names)
    if signature.form == "texts":
        return made.iloc[:, 0]
    if signature.form == "arrays":
        return {name: made[name].to_numpy() for name in made.columns}
    return made if signature.form == "frame" else made.to_numpy(dtype=object)


def _is_other(kind: pa.DataType) -> bool:
    """Return whether an array of this type holds objects, since its values are not numbers."""
    return not (is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def frame(table: pa.Table, features: Mapping[str, Feature], names: Sequence[str]) -> pd.DataFrame:
    """Return the rows as a data frame with these names for its columns.

    `features`: what the model knows of columns, by the table's names for them.
    """
    reader = (table.schema.metadata or {}).get(READER, b"parquet")
    made = table.to_pandas()
    for field in table.schema:
        before = made[field.name]
        after = _column(before, field, features.get(field.name), reader)
        if after is not before:
            made[field.name] = after
    if list(made.columns) != list(names):
        made.columns = list(names)
    return made


def _column(
    values: pd.Series[Any], field: pa.Field, feature: Feature | None, reader: bytes
) -> pd.Series[Any]:
    if feature is not None and feature.categories is not None:
        return _categorical(values, feature.categories)
    if is_json(field):
        return _from_json(values)
    if isinstance(values.dtype, np.dtype) or reader in BY_VALUES:
        values = _as_whole_column(values, field, reader)
    if feature is not None and feature.missing_as is not None:
        return _with_missing(values, feature.missing_as)
    return values


def _as_whole_column(values: pd.Series[Any], field: pa.Field, reader: bytes) -> pd.Series[Any]:
    has_gaps = NULLS in (field.metadata or {})
    kind = values.dtype.kind
    if reader in BY_VALUES and (field.metadata or {}).get(NULLS) == ALL:
        return _objects(values)
    if reader == b"query" and kind == "M" and _is_pandas_2():
        return values.dt.as_unit("ns")
    if kind in "iu" and has_gaps:
        return values.astype(np.float64)
    if kind in "iu" and reader == b"query" and values.dtype != np.int64:
        return values.astype(np.int64)  # a driver knows one kind of whole number
    if kind == "b" and has_gaps:
        return values.astype(object)
    if kind == "O" and reader == b"csv":
        if pa.types.is_null(field.type):
            return values.astype(np.float64)
        return values.where(values.notna(), np.nan)
    return values


def _is_pandas_2() -> bool:
    import pandas as pd

    return str(pd.__version__).startswith("2.")


def _objects(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return the values as objects, with None for missing ones."""
    objects = values.astype(object)
    return objects.where(objects.notna(), None)


def _from_json(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return values of several kinds as objects: pandas must not infer a dtype from these rows."""
    import pandas as pd

    found = [None if text is None else json.loads(text) for text in _objects(values)]
    return pd.Series(found, index=values.index, dtype=object)


def _with_missing(values: pd.Series[Any], missing_as: str) -> pd.Series[Any]:
    """Return the values with the missing value that the model's encoder knows: NaN or None."""
    if values.dtype.kind in "iufbmM" or not values.isna().any():
        return values
    if values.dtype != object and missing_as == "nan":
        return values
    objects = values.astype(object)
    return objects.where(objects.notna(), np.nan if missing_as == "nan" else None)


def _categorical(values: pd.Series[Any], categories: Sequence[Any]) -> pd.Series[Any]:
    """Return categories: first the model's own, then those that it does not know.

    XGBoost raises for unknown ones; others treat them as missing.
    """
    import pandas as pd

    known = pd.Index(list(categories))
    plain = values.astype(values.cat.categories.dtype) if hasattr(values, "cat") else values
    foreign = [one for one in plain.dropna().unique() if one not in known]
    both = [*categories, *foreign]
    codes = pd.Index(both).get_indexer(pd.Index(plain))
    return pd.Series(pd.Categorical.from_codes(codes, categories=both))
