"""Unions: the member that a value belongs to, and whether JSON can tell the members apart."""

from __future__ import annotations

from typing import Any

from peers.values.codec import (
    JSON_TYPES,
    Codec,
    ConversionError,
    UnsupportedTypeError,
    same,
    type_text,
)
from peers.values.scalars import SCALARS

_BYTES = SCALARS[bytes]


class UnionCodec(Codec):
    """A value of one of several types. A JSON value is of the type that JSON has itself, if any."""

    def __init__(self, members: list[Codec], native: Any) -> None:
        self.name = " | ".join(member.name for member in members)
        self.json_types = frozenset[type]().union(*(member.json_types for member in members))
        self.native = native
        self.is_plain = all(member.is_plain for member in members)
        self.holds_any = any(member.holds_any for member in members)
        self.makes_floats = any(member.makes_floats for member in members)
        self.rank = max(member.rank for member in members)
        self._members = sorted(members, key=lambda member: member.rank)
        self._by_json_type = {
            form: tuple(member for member in self._members if form in member.json_types)
            for form in JSON_TYPES
        }
        if _BYTES in members and len(self._by_json_type[str]) > 1:
            raise UnsupportedTypeError(
                f"{self.name}: bytes and text cannot be told apart in JSON; take bytes, or "
                "bytes | None"
            )

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return what any of the members may have there."""
        return frozenset[type]().union(*(member.types_at(path) for member in self._members))

    def matches(self, value: object) -> bool:
        """Return whether it is of one of the types."""
        return any(member.matches(value) for member in self._members)

    def dump(self, value: Any) -> Any:
        """Return the JSON of the first type that fits the value and is read back as it is."""
        fitting = [member for member in self._members if member.matches(value)]
        errors: list[tuple[Codec, ConversionError]] = []
        ambiguous = False
        for member in fitting:
            try:
                data = member.dump(value)
                if self._is_read_back(data, value):
                    return data
                ambiguous = True
            except ConversionError as error:
                errors.append((member, error))
        if ambiguous and type(value) not in self.json_types:
            raise ConversionError(
                f"{type_text(value)} cannot be told apart in JSON from the other types of "
                f"{self.name}; annotate one type"
            )
        if errors and not ambiguous:
            raise self._none_fits(value, errors)
        return self._dump_otherwise(value)

    def _is_read_back(self, data: Any, value: Any) -> bool:
        return len(self._by_json_type.get(type(data), ())) < 2 or same(self.load(data), value)  # noqa: PLR2004

    def _dump_otherwise(self, value: Any) -> Any:
        """Dump a value of no member's own type, such as an int for a float, or a date's text."""
        errors: list[tuple[Codec, ConversionError]] = []
        for member in self._members:
            try:
                return member.dump(value)
            except ConversionError as error:  # most values fit the first
                errors.append((member, error))
        raise self._none_fits(value, errors)

    def load(self, data: Any) -> Any:
        """Return the value of the first member that the JSON value fits."""
        candidates = self._by_json_type.get(type(data), ())
        if len(candidates) == 1:
            return candidates[0].load(data)
        errors: list[tuple[Codec, ConversionError]] = []
        for member in candidates:
            try:
                return member.load(data)
            except ConversionError as error:  # most values fit the first
                errors.append((member, error))
        raise self._none_fits(data, errors)

    def _none_fits(
        self, value: Any, errors: list[tuple[Codec, ConversionError]]
    ) -> ConversionError:
        """Return the faults within the only member that could be meant, or one for all members."""
        deep = [error for _, error in errors if any(path for path, _ in error.faults)]
        if len(deep) == 1:
            return deep[0]
        if len(errors) == 1:
            return errors[0][1]
        reasons = [f"{member.name} ({error.describe('it')})" for member, error in errors]
        why = f": {'; '.join(reasons)}" if deep else ""
        return ConversionError(f"expected {self.name}, got {type_text(value)}{why}")
