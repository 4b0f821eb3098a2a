"""Columns of lists and objects: their JSON in a text column, which says so of itself."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from peers.predict.column_metadata import is_json


def json_text(value: Any) -> str:
    """Return the value's JSON."""
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # JSON can spell half a character, which is none
    return text


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as Python values; lists and objects of JSON are what they were."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for field in table.schema:
        if is_json(field):
            for row in rows:
                if row[field.name] is not None:
                    row[field.name] = json.loads(row[field.name])
    return rows
