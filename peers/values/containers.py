"""Lists, tuples, sets and dicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import GenericAlias
from typing import Any, Literal, cast

import msgspec

from peers.values.codec import NOTHING, Codec, ConversionError, same, type_text
from peers.values.plain import StrCodec


def _each(convert: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Convert the items. Raises `ConversionError`, which holds the index of the wrong item."""
    converted: list[Any] = []
    try:
        for item in items:
            converted.append(convert(item))  # noqa: PERF401 - its length is the index of the wrong item
    except ConversionError as error:
        raise error.within(len(converted)) from None
    return converted


def _shape_of(native: Any) -> Any:
    """Return a struct to check a value with; its description is kept, that of a list is not."""
    return msgspec.defstruct("Shape", [("it", native)], array_like=True)


class CollectionCodec(Codec):
    """A list, a set or a frozenset, or a tuple of any length: a JSON list."""

    json_types = frozenset({list})
    _shape: Any = None

    def __init__(self, kind: type, item: Codec) -> None:
        self.name = f"{kind.__name__}[{item.name}{', ...' if kind is tuple else ''}]"
        self._kind, self._item = kind, item
        self.rank = 1 + item.rank if kind is list else 20
        self.holds_any, self.makes_floats = item.holds_any, item.makes_floats
        if kind is list:
            self.is_plain = item.is_plain
            if item.native is not None:
                self.native = GenericAlias(list, (item.native,))
                self._shape = _shape_of(self.native)

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return what an item may have there."""
        if not path:
            return self.json_types
        return self._item.types_at(path[1:]) if _is_index(path[0]) else NOTHING

    def matches(self, value: object) -> bool:
        """Return whether it is of this kind."""
        return isinstance(value, self._kind)

    def dump(self, value: Any) -> Any:
        """Return a list. A tuple is taken for a list, and a list for a tuple or a set."""
        if not isinstance(value, (self._kind, list, tuple)):
            raise self.mismatch(value)
        return _each(self._item.dump, cast("Iterable[Any]", value))

    def load(self, data: Any) -> Any:
        """Return the list, tuple or set."""
        if type(data) is not list:
            raise self.mismatch(data)
        if self._shape is not None:
            with suppress(msgspec.ValidationError, RecursionError):
                return msgspec.convert((data,), self._shape).it
        loaded = _each(self._item.load, data)
        if self._kind is list:
            return loaded
        try:
            return self._kind(loaded)
        except TypeError as error:  # an item of a set cannot be hashed
            raise ConversionError(f"expected {self.name}, but {error}") from None


class TupleCodec(Codec):
    """A tuple of a known length, with a type for each position: a JSON list."""

    json_types = frozenset({list})
    rank = 20

    def __init__(self, items: tuple[Codec, ...]) -> None:
        self.name = f"tuple[{', '.join(item.name for item in items) or '()'}]"
        self._items = items

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return what the item of this position may have there."""
        if not path:
            return self.json_types
        fits = _is_index(path[0]) and -len(self._items) <= int(path[0]) < len(self._items)
        return self._items[int(path[0])].types_at(path[1:]) if fits else NOTHING

    def matches(self, value: object) -> bool:
        """Return whether it is a tuple of this length."""
        return isinstance(value, tuple) and len(value) == len(self._items)

    def dump(self, value: Any) -> Any:
        """Return a list."""
        if not isinstance(value, tuple | list):
            raise self.mismatch(value)
        return self._convert("dump", value)

    def load(self, data: Any) -> Any:
        """Return the tuple."""
        if type(data) is not list:
            raise self.mismatch(data)
        return tuple(self._convert("load", data))

    def _convert(self, verb: Literal["dump", "load"], values: Sequence[Any]) -> list[Any]:
        if len(values) != len(self._items):
            raise ConversionError(f"expected {self.name}, got {len(values)} items")
        converted: list[Any] = []
        try:
            for item, value in zip(self._items, values, strict=True):
                converted.append(item.dump(value) if verb == "dump" else item.load(value))
        except ConversionError as error:
            raise error.within(len(converted)) from None
        return converted


class DictCodec(Codec):
    """A dict: a JSON object, whose names are the keys as text."""

    json_types = frozenset({dict})
    _shape: Any = None

    def __init__(self, key: Codec, value: Codec) -> None:
        self.name = f"dict[{key.name}, {value.name}]"
        self.rank = 30
        self._key, self._value = key, value
        self._is_text = isinstance(key, StrCodec)
        self.holds_any, self.makes_floats = value.holds_any, value.makes_floats
        if self._is_text:
            self.is_plain = value.is_plain
            if value.native is not None:
                self.native = GenericAlias(dict, (str, value.native))
                self._shape = _shape_of(self.native)

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return what a value may have there, whatever its key is."""
        return self._value.types_at(path[1:]) if path else self.json_types

    def matches(self, value: object) -> bool:
        """Return whether it is a mapping."""
        return isinstance(value, Mapping)

    def dump(self, value: Any) -> Any:
        """Return a dict whose keys are text."""
        if not isinstance(value, Mapping):
            raise self.mismatch(value)
        dumped: dict[str, Any] = {}
        for key, part in value.items():
            try:
                name = self._dump_key(key)
                if name in dumped:
                    raise ConversionError(f"two keys have the same text {name!r} in JSON")
                dumped[name] = self._value.dump(part)
            except ConversionError as error:
                raise error.within(str(key)) from None
        return dumped

    def load(self, data: Any) -> Any:
        """Return the dict."""
        if type(data) is not dict:
            raise self.mismatch(data)
        if self._shape is not None:
            with suppress(msgspec.ValidationError, RecursionError):
                return msgspec.convert((data,), self._shape).it
        loaded: dict[Any, Any] = {}
        for name, part in data.items():
            try:
                key = name if self._is_text else self._load_key(name)
                loaded[key] = self._value.load(part)
            except ConversionError as error:
                raise error.within(name) from None
            except TypeError as error:  # the key cannot be hashed
                raise ConversionError(f"expected {self.name}, but {error}").within(name) from None
        return loaded

    def _dump_key(self, key: Any) -> str:
        try:
            name = self._key.dump(key)
        except ConversionError as error:
            raise _key_error(error) from None
        if self._is_text:
            return str(name)
        if not isinstance(name, str):
            name = json.dumps(name, allow_nan=False)
        if self._key.matches(key) and not same(self._load_key(name), key):
            raise ConversionError(
                f"its key: {type_text(key)} cannot be told apart from another type of "
                f"{self._key.name}; annotate one type"
            )
        return name

    def _load_key(self, name: str) -> Any:
        """Return the key. The name of what is no text in JSON is its JSON text."""
        try:
            return self._key.load(name)
        except ConversionError as error:
            if not self._key.json_types - {str}:
                raise _key_error(error) from None
        try:
            return self._key.load(json.loads(name))
        except ConversionError as error:
            raise _key_error(error) from None
        except ValueError:
            raise ConversionError(f"its key: expected {self._key.name}, got str") from None


def _is_index(step: str) -> bool:
    return step.removeprefix("-").isdecimal()


def _key_error(error: ConversionError) -> ConversionError:
    return ConversionError(*(f"its key: {reason}" for _, reason in error.faults))
