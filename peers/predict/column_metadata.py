"""The metadata keys of an input's schema and its fields."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

TYPE: Final = b"peers.type"
"""Of a field: the name of its type, if Arrow's type is not enough."""
AS_JSON: Final = {TYPE: b"json"}
GUESSED: Final = b"peers.guessed"
"""Of a field: its type was inferred from the values of a text file."""
INDEX: Final = b"peers.index"
"""Of a field that is an index of pandas: it is a feature only if the model names it."""
NULLS: Final = b"peers.nulls"
"""Of a field: a value is missing somewhere in the input; ALL: all values are missing.

`pandas.read_parquet` reads whole numbers and booleans with a missing value as doubles or objects. A
chunk without missing values must get the same dtype as the whole input.
"""
ZEROS: Final = b"peers.zeros"
"""Of a carried column of numbers: a value with a leading zero, as the text file has it."""
PARTITION: Final = b"peers.partition"
"""Of a field whose values come from the names of folders."""
READER: Final = b"peers.reader"
"""Of a schema: the reader of pandas that gives the same columns."""

YES: Final = b"1"
ALL: Final = b"all"
BY_VALUES: Final = (b"json", b"query")
"""Readers that pass Python values to pandas, which infers the dtypes."""


def is_json(field: pa.Field) -> bool:
    """Return whether the field's texts are JSON."""
    return pa.types.is_string(field.type) and (field.metadata or {}).get(TYPE) == AS_JSON[TYPE]
