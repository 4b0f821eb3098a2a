"""Single values that JSON writes as text or as a number, such as dates, enums and bytes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final
from uuid import UUID

import msgspec

from peers.values.codec import NULL, Codec, ConversionError, type_text

_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_SCALARS: Final = (str, int, float, bool, NULL)


class ScalarCodec(Codec):
    """A class whose values are written as one text, and read from it."""

    json_types = frozenset({str})

    def __init__(
        self,
        kind: type,
        write: Callable[[Any], Any],
        read: Callable[[Any], Any],
        example: str,
        *,
        numbers: bool = False,
        rank: int = 5,
    ) -> None:
        self.name = kind.__name__
        self.rank = rank
        self._kind = kind
        self._write, self._read, self._example = write, read, example
        if numbers:
            self.json_types = frozenset({str, int, float})

    def matches(self, value: object) -> bool:
        """Return whether it is of the class; a datetime is no date."""
        is_one = isinstance(value, self._kind)
        return is_one and not (self._kind is date and isinstance(value, datetime))

    def dump(self, value: Any) -> Any:
        """Return the text, also of a value that is the text already."""
        return self._write(value) if self.matches(value) else self.dump_json_form(value)

    def load(self, data: Any) -> Any:
        """Return the value that the text stands for."""
        if type(data) not in self.json_types:
            raise self.mismatch(data)
        try:
            return self._read(data)
        except (ValueError, OverflowError, InvalidOperation, msgspec.ValidationError) as error:
            if isinstance(error, ConversionError):
                raise
            raise self.mismatch(data) from None

    def mismatch(self, value: object) -> ConversionError:
        """Return the error, with an example of the text."""
        form = " of another form" if type(value) is str else ""
        return ConversionError(
            f"expected {self.name}, got {type_text(value)}{form}; pass a {self.name}, or "
            f"{self._example}"
        )


def _read_date(text: str) -> date:
    return date.fromisoformat(text)


def _write_duration(value: timedelta) -> Any:
    return msgspec.to_builtins(timedelta(value.days, value.seconds, value.microseconds))


def _read_duration(data: Any) -> timedelta:
    if isinstance(data, str):
        return msgspec.convert(data, timedelta)
    return timedelta(seconds=data)


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ConversionError(
            f"expected a finite Decimal, got {value}; pass None or a finite number"
        )
    return str(value)


def _read_decimal(data: Any) -> Decimal:
    value = Decimal(data if type(data) is not float else repr(data))
    if not value.is_finite():
        raise ConversionError(
            f"expected a finite Decimal, got {value}; pass None or a finite number"
        )
    return value


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _read_bytes(text: str) -> bytes:
    """Read base64; some languages write - and _ for + and /."""
    return binascii.a2b_base64(text.encode().translate(_ALPHABET), strict_mode=True)


SCALARS: Final[dict[type, ScalarCodec]] = {
    date: ScalarCodec(date, date.isoformat, _read_date, 'text such as "2026-11-23"', rank=2),
    datetime: ScalarCodec(
        datetime, datetime.isoformat, datetime.fromisoformat,
        'text such as "2026-11-23T10:00:00+01:00"', rank=3,
    ),
    time: ScalarCodec(time, time.isoformat, time.fromisoformat, 'text such as "10:30:00"', rank=4),
    timedelta: ScalarCodec(
        timedelta, _write_duration, _read_duration, 'seconds, or text such as "PT1H30M"',
        numbers=True,
    ),
    UUID: ScalarCodec(UUID, str, UUID, "its text with hyphens", rank=2),
    Decimal: ScalarCodec(
        Decimal, _write_decimal, _read_decimal, 'a number, or text such as "12.50"', numbers=True
    ),
    complex: ScalarCodec(complex, str, complex, 'text such as "1+2j"'),
    bytes: ScalarCodec(bytes, _write_bytes, _read_bytes, "their base64 text", rank=7),
}  # fmt: skip

for _path in (Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath):
    SCALARS[_path] = ScalarCodec(_path, str, _path, "its text", rank=8)


class EnumCodec(Codec):
    """A member of an enum: its value, or its name if a value has no JSON form."""

    def __init__(self, kind: type[Enum]) -> None:
        self.name = kind.__name__
        self._kind = kind
        members = kind.__members__.values()
        self._by_value = all(type(member.value) in _SCALARS for member in members)
        self.json_types = (
            frozenset(type(m.value) for m in members) if self._by_value else frozenset({str})
        )
        self._members = {
            (type(member.value), member.value) if self._by_value else (str, name): member
            for name, member in kind.__members__.items()
        }

    def matches(self, value: object) -> bool:
        """Return whether it is a member."""
        return isinstance(value, self._kind)

    def dump(self, value: Any) -> Any:
        """Return the member's value."""
        if not isinstance(value, self._kind):
            return self.dump_json_form(value)
        data = value.value if self._by_value else value.name
        if data is None and not self._by_value:
            raise self.mismatch(value)
        return data

    def load(self, data: Any) -> Any:
        """Return the member that has this value."""
        if type(data) not in self.json_types:
            raise self.mismatch(data)
        member = self._members.get((type(data), data))
        if member is None:  # two flags together have no name of their own
            try:
                member = self._kind(data)
            except ValueError:
                raise self.mismatch(data) from None
        return member

    def mismatch(self, value: object) -> ConversionError:
        """Return the error, with the members."""
        known = _shortened(self._kind.__members__)
        return ConversionError(f"expected {self.name}, got {type_text(value)}; pass one of {known}")


class LiteralCodec(Codec):
    """The values of a Literal."""

    def __init__(self, name: str, choices: Sequence[tuple[object, Any]]) -> None:
        self.name = name
        self.rank = 4
        self._choices = choices
        self.json_types = frozenset(type(data) for _, data in choices)
        self.is_plain = all(type(value) in _SCALARS for value, _ in choices)
        self.remedy_text = "pass one of " + _shortened([repr(value) for value, _ in choices])

    def matches(self, value: object) -> bool:
        """Return whether it is one of the values."""
        return any(type(one) is type(value) and one == value for one, _ in self._choices)

    def dump(self, value: Any) -> Any:
        """Return the JSON form of the value."""
        for one, data in self._choices:
            if type(one) is type(value) and one == value:
                return data
        return self.dump_json_form(value)

    def load(self, data: Any) -> Any:
        """Return the value that has this JSON form."""
        for one, form in self._choices:
            if type(form) is type(data) and form == data:
                return one
        raise self.mismatch(data)

    def mismatch(self, value: object) -> ConversionError:
        """Return the error, with the values."""
        return ConversionError(f"expected {self.name}, got {type_text(value)}; {self.remedy_text}")


def _shortened(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")  # noqa: PLR2004
