"""Replace what a database cannot store."""

from __future__ import annotations

import math
from typing import Final

_CODECS: Final = {"WIN1256": "cp1256", "WIN866": "cp866", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}
"""Python's names for those encodings of Postgres that it calls otherwise."""


def storable(value: object, encoding: str) -> object:
    r"""Replace the characters of a text that the encoding does not have by escapes such as \u20ac.

    Numbers that JSON cannot express become texts, which the functions of the database accept.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        return value
    codec = _CODECS.get(encoding, encoding)
    escaped = value.encode(codec, "backslashreplace").decode(codec)
    return escaped.replace("\0", "\\x00")
