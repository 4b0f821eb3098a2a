"""Columns of lists and objects: their JSON in a text column, which says so of itself."""

from __future__ import annotations

import json
from typing import Any, Final

import pyarrow as pa

AS_JSON: Final = {b"peers.type": b"json"}


def is_json(field: pa.Field) -> bool:
    """Whether the field's texts are JSON."""
    return pa.types.is_string(field.type) and (field.metadata or {}).get(b"peers.type") == b"json"


def json_text(value: Any) -> str:
    """The value's JSON."""
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # JSON can spell half a character, which is none
    return text


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values; lists and objects of JSON are what they were."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for field in table.schema:
        if is_json(field):
            for row in rows:
                if row[field.name] is not None:
                    row[field.name] = json.loads(row[field.name])
    return rows
