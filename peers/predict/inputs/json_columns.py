"""Store lists and objects as JSON in text columns; the field's metadata marks such a column."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: Any) -> str:
    """Return the value's JSON."""
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # raises for half a surrogate pair, which JSON can spell
    return text
