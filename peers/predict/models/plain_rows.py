"""Turn the rows of a table into Python values."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from peers.predict.column_metadata import is_json


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as dicts; columns of JSON become lists and dicts again."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for field in table.schema:
        if is_json(field):
            for row in rows:
                if row[field.name] is not None:
                    row[field.name] = json.loads(row[field.name])
    return rows
