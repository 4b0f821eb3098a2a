"""The base of all codecs: one type's way into JSON and back, and the error when a value errors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

NULL: Final = type(None)
JSON_TYPES: Final = frozenset({NULL, bool, int, float, str, list, dict})
"""The types that a JSON decoder returns."""
NOTHING: Final = frozenset[type]()

_MOST_FAULTS: Final = 10


class ConversionError(ValueError):
    """A value does not fit its annotation. It holds the path of each field that is wrong."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.faults: list[tuple[Path, str]] = [((), reason) for reason in reasons]

    def __str__(self) -> str:
        return self.describe("value")

    def add(self, key: str | int, reason: str) -> None:
        """Add a field that is wrong."""
        self.faults.append(((key,), reason))

    def within(self, key: str | int) -> ConversionError:
        """Put `key` in front of each path, and return the error itself."""
        self.faults = [((key, *path), reason) for path, reason in self.faults]
        return self

    def describe(self, root: str) -> str:
        """Return one sentence per field, such as `args.customer.birthday: expected date, …`."""
        texts = [
            f"{path_text(root, path)}: {reason}" for path, reason in self.faults[:_MOST_FAULTS]
        ]
        more = len(self.faults) - len(texts)
        return "; ".join(texts) + (f"; and {more} more" if more else "")


class UnsupportedTypeError(TypeError):
    """No value of the annotated type can be written as JSON and read back."""


class Codec(ABC):
    """Writes the values of one annotation as JSON and reads them back."""

    name: str
    """The annotation, for error messages."""
    json_types: frozenset[type] = JSON_TYPES
    """The JSON types that `load` may accept; empty if nothing can be loaded."""
    native: Any = None
    """What msgspec checks, for a type that JSON has itself; None for other types."""
    is_plain: bool = False
    """Whether JSON holds the value as it is, so that nothing has to be converted."""
    holds_any: bool = False
    """Whether a native value may hold something of any type."""
    makes_floats: bool = False
    """Whether a native value may hold a float, for which JSON may have an int."""
    rank: int = 5
    """Among the members of a union that fit a JSON value, the smallest rank is tried first."""
    remedy: ClassVar[str] = ""

    @abstractmethod
    def matches(self, value: object) -> bool:
        """Return whether `value` is of the annotated type; what it contains does not count."""

    @abstractmethod
    def dump(self, value: Any) -> Any:
        """Return `value` as JSON. Raises `ConversionError`."""

    @abstractmethod
    def load(self, data: Any) -> Any:
        """Return the value that `data`, which is JSON, stands for. Raises `ConversionError`."""

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return the JSON types that may be at a path within the JSON; none: nothing ever is.

        A list is entered by a number, as in SQL.
        """
        if not path:
            return self.json_types
        return JSON_TYPES if self.json_types & {dict, list} else NOTHING

    def mismatch(self, value: object) -> ConversionError:
        """Return the error for a value of another type, or of another form."""
        return ConversionError(f"expected {self.name}, got {type_text(value)}{self.remedy}")

    def dump_json_form(self, value: Any) -> Any:
        """Return `value` if it is the JSON form of the type already. Raises `ConversionError`."""
        if type(value) not in self.json_types:
            raise self.mismatch(value)
        self.load(value)
        return value


def type_text(value: object) -> str:
    """Return the name of the value's type, for an error message."""
    if value is None:
        return "None"
    return type(value).__qualname__


def path_text(root: str, path: Path) -> str:
    """Return a path as it is written in Python, such as `args.rows[3].name`."""
    return root + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def error_at(path: Path, reason: str) -> ConversionError:
    """Return the error for one field."""
    error = ConversionError()
    error.faults.append((path, reason))
    return error


def find_unwritable(value: object) -> tuple[Path, str] | None:
    """Return the path of the first part that jsonb cannot hold, and the reason."""
    try:
        return _find_unwritable(value, ())
    except RecursionError:  # it contains itself, which the encoder reports
        return None


def _find_unwritable(value: object, path: Path) -> tuple[Path, str] | None:
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"JSON has no {value}; pass None or a finite number"
    if isinstance(value, str):
        reason = _reason_against(value)
        if reason is not None:
            return path, reason
    if isinstance(value, bytes | bytearray | memoryview):
        return path, (
            f"got {type_text(value)} where the annotation does not say bytes; annotate it as "
            "bytes, or pass text"
        )
    for key, part in parts_of(value):
        reason = _reason_against(key) if isinstance(key, str) else None
        if reason is not None:
            return path, f"the key {key!r}: {reason}"
        found = _find_unwritable(part, (*path, key))
        if found is not None:
            return found
    return None


def _reason_against(text: str) -> str | None:
    """Return why jsonb cannot hold a text."""
    if "\0" in text:
        return (
            "the text holds a NUL character, which jsonb cannot hold; pass bytes, or leave it out"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate); pass valid Unicode"
    return None


def parts_of(value: object) -> Iterator[tuple[str | int, object]]:
    """Yield the parts of a mapping or of a collection, each with its key."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key), part
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)


def same(one: object, other: object) -> bool:
    """Return whether two values are equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(part, other[key]) for key, part in one.items()
        )
    return one == other or type(one).__eq__ is object.__eq__
