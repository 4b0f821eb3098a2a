"""Args and results as people write them, and the JSON that the database keeps.

The annotation decides: `dump` writes a value of it as JSON, and `load` makes the same value of that
JSON again. What JSON has itself is only checked, by msgspec; dates, enums, dataclasses and the like
are converted here; models are left to pydantic, which is imported only for these.
"""

from __future__ import annotations

from typing import Any

from peers.values.annotations import codec_of
from peers.values.codec import (
    Codec,
    ConversionError,
    UnsupportedTypeError,
    find_unwritable,
    path_text,
    type_text,
)
from peers.values.plain import jsonable
from peers.values.records import Fields

__all__ = [
    "Codec",
    "ConversionError",
    "Fields",
    "UnsupportedTypeError",
    "codec_of",
    "dump",
    "find_unwritable",
    "jsonable",
    "load",
    "path_text",
    "type_text",
]


def dump(value: Any, annotation: Any) -> Any:
    """Return `value` as JSON types. Raises `ConversionError`, which names each wrong field."""
    return codec_of(annotation).dump(value)


def load(data: Any, annotation: Any) -> Any:
    """Return the value that JSON `data` stands for. Raises `ConversionError`, as `dump` does."""
    return codec_of(annotation).load(data)
