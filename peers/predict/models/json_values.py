"""Convert rows to JSON for a request; values that JSON lacks get their usual forms."""

from __future__ import annotations

import base64
import datetime
import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from peers.predict.errors import RowError
from peers.predict.models.plain_rows import plain_rows

if TYPE_CHECKING:
    import pyarrow as pa


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows; NaN, which JSON lacks, becomes null like any missing value."""
    rows = plain_rows(table)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                row[name] = None
    return rows


def encoded(value: Any) -> bytes:
    """Return the JSON of a request. Raises RowError for infinity, and NaN within a list."""
    try:
        return json.dumps(value, allow_nan=False, default=plain).encode()
    except ValueError:
        raise RowError("NaN and infinity have no form in JSON") from None


def plain(value: Any) -> Any:
    """Return a decimal as a number, a time as ISO text, bytes as base64, anything else as text."""
    match value:
        case Decimal():
            return int(value) if value.is_finite() and value % 1 == 0 else float(value)
        case datetime.date() | datetime.time():  # a datetime is a date
            return value.isoformat()
        case datetime.timedelta():
            return f"PT{value.total_seconds():f}".rstrip("0").rstrip(".") + "S"
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case _:
            return str(value)
