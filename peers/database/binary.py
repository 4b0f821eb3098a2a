"""Read and write values in Postgres's binary format: arrays without an object for each element.

An array of one dimension has a header of 20 bytes: the number of dimensions, whether it has nulls,
the type of its elements, their number, and the lower bound. Each element has its length and its
value. An array without elements has no dimension, and a header of 12 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

_HEADER: Final = struct.Struct(">iiIii")
_EMPTY: Final = struct.Struct(">iiI")
_LENGTH: Final = struct.Struct(">i")
_FLOAT: Final = struct.Struct(">d")
_ID: Final = struct.Struct(">q")

_ID_BYTES: Final = 12
"""Of each element of a bigint[], with its length."""

_BIGINT: Final = 20  # the oids of the types of elements
_INTEGER: Final = 23
_TEXT: Final = 25
_BYTEA: Final = 17
_UUID: Final = 2950
_UUID_HEAD: Final = _LENGTH.pack(16)
_NULL: Final = _LENGTH.pack(-1)


def read_integer(raw: bytes | None) -> int:
    """Return an integer of any size; 0 for null."""
    return int.from_bytes(raw or b"", "big", signed=True)


def read_float(raw: bytes | None) -> float:
    """Return a double precision; 0.0 for null."""
    number: float = _FLOAT.unpack(raw or bytes(8))[0]
    return number


def count(raw: bytes) -> int:
    """Return how many elements an array has."""
    return int.from_bytes(raw[12:16], "big") if len(raw) > _EMPTY.size else 0


def id_at(raw: bytes, index: int) -> int:
    """Return one element of a bigint[]."""
    found: int = _ID.unpack_from(raw, _HEADER.size + index * _ID_BYTES + _LENGTH.size)[0]
    return found


def read_ids(raw: bytes) -> tuple[int, ...]:
    """Return the elements of a bigint[] without nulls."""
    return struct.unpack_from(f">{'4xq' * count(raw)}", raw, _HEADER.size) if count(raw) else ()


def read_small(raw: bytes) -> tuple[int, ...]:
    """Return the elements of a smallint[] without nulls."""
    return struct.unpack_from(f">{'4xh' * count(raw)}", raw, _HEADER.size) if count(raw) else ()


def read_texts(raw: bytes) -> tuple[str, ...]:
    """Return the elements of a text[] without nulls."""
    return tuple(value.decode() for value in _values(raw) if value is not None)


def read_floats(raw: bytes) -> tuple[float | None, ...]:
    """Return the elements of a double precision[]."""
    return tuple(
        None if value is None else float(_FLOAT.unpack(value)[0]) for value in _values(raw)
    )


def slice_ids(raw: bytes, first: int, count: int) -> bytes:
    """Return a bigint[] of `count` elements of this one, from the index `first` on."""
    begin = _HEADER.size + first * _ID_BYTES
    return _HEADER.pack(1, 0, _BIGINT, count, 1) + raw[begin : begin + count * _ID_BYTES]


def join_ids(parts: Sequence[bytes]) -> bytes:
    """Return a bigint[] of the elements of these ones, each of which has an element."""
    bodies = b"".join([part[_HEADER.size :] for part in parts])
    return _HEADER.pack(1, 0, _BIGINT, len(bodies) // _ID_BYTES, 1) + bodies


def pack_ids(ids: Sequence[int]) -> bytes:
    """Return a bigint[]."""
    return _array(_BIGINT, [b"\0\0\0\x08" + _ID.pack(task_id) for task_id in ids])


def pack_integers(numbers: Sequence[int]) -> bytes:
    """Return an integer[]."""
    return _array(_INTEGER, [b"\0\0\0\x04" + _LENGTH.pack(number) for number in numbers])


def pack_tokens(tokens: Sequence[bytes]) -> bytes:
    """Return a uuid[] of these values of 16 bytes each."""
    return _array(_UUID, [_UUID_HEAD + token for token in tokens])


def pack_repeated(tokens: Sequence[tuple[bytes, int]]) -> bytes:
    """Return a uuid[] that has each of these tokens so many times."""
    length = sum(times for _, times in tokens)
    body = b"".join([(_UUID_HEAD + token) * times for token, times in tokens])
    return _HEADER.pack(1, 0, _UUID, length, 1) + body


def pack_texts(texts: Sequence[str | None]) -> bytes:
    """Return a text[], in UTF-8."""
    return _array(_TEXT, [_NULL if text is None else _sized(text.encode()) for text in texts])


def pack_bytes(values: Sequence[bytes | None]) -> bytes:
    """Return a bytea[]."""
    return _array(_BYTEA, [_NULL if value is None else _sized(value) for value in values])


def _array(element: int, items: Sequence[bytes]) -> bytes:
    if not items:
        return _EMPTY.pack(0, 0, element)
    return _HEADER.pack(1, _NULL in items, element, len(items), 1) + b"".join(items)


def _sized(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _values(raw: bytes) -> list[bytes | None]:
    values: list[bytes | None] = []
    at = _HEADER.size
    for _ in range(count(raw)):
        [length] = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        values.append(None if length < 0 else raw[at : at + length])
        at += max(length, 0)
    return values
