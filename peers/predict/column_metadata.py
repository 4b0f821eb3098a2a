"""The keys of what the schema of an input notes about itself and its columns."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

TYPE: Final = b"peers.type"
"""Of a field: the name of its type, where Arrow's type alone does not say it."""
AS_JSON: Final = {TYPE: b"json"}
GUESSED: Final = b"peers.guessed"
"""Of a field: its type was inferred from the values of a text file."""
INDEX: Final = b"peers.index"
"""Of a field that is an index of pandas: it is no feature, unless the model names it."""
NULLS: Final = b"peers.nulls"
"""Of a field: it has a gap somewhere in the input; ALL: it has nothing else.

`pandas.read_parquet` of the whole input makes doubles or objects of whole numbers and booleans with
a gap. A chunk of them may have no gap, and must look the same.
"""
PARTITION: Final = b"peers.partition"
"""Of a field whose values come from the names of folders."""
READER: Final = b"peers.reader"
"""Of a schema: which reader of pandas gives the same columns."""

YES: Final = b"1"
ALL: Final = b"all"
BY_VALUES: Final = (b"json", b"query")
"""Readers that hand Python's values to pandas, which finds a type for them."""


def is_json(field: pa.Field) -> bool:
    """Return whether the field's texts are JSON."""
    return pa.types.is_string(field.type) and (field.metadata or {}).get(TYPE) == AS_JSON[TYPE]
