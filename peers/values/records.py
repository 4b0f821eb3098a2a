"""Values with named fields: dataclasses, TypedDicts, NamedTuples, and the args of a handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from peers.values.codec import NOTHING, Codec, ConversionError, type_text
from peers.values.plain import AnyCodec

_any = AnyCodec()
_OBJECT: Final = frozenset({dict})


class Fields:
    """Named values, each with a codec.

    One call of msgspec finds a missing or an unknown name, and checks the types that JSON has
    itself. It checks against a struct, whose description msgspec keeps: that takes a quarter of the
    time of a TypedDict.
    """

    def __init__(
        self, codecs: Mapping[str, Codec], required: frozenset[str], *, takes_more: bool = False
    ) -> None:
        self._codecs = codecs
        self._required = required
        self._takes_more = takes_more
        self.is_plain = all(codec.is_plain for codec in codecs.values())
        # a struct's own field names are restricted, so it has numbered ones
        attributes = {name: f"f{number}" for number, name in enumerate(codecs)}
        self._shape = msgspec.defstruct(
            "Shape",
            [
                (attributes[name], Any if codec.native is None else codec.native)
                if name in required
                else (attributes[name], Any if codec.native is None else codec.native, None)
                for name, codec in codecs.items()
            ],
            rename={attribute: name for name, attribute in attributes.items()},
            forbid_unknown_fields=not takes_more,
            kw_only=True,
        )
        self._checked = {
            name: attributes[name]
            for name, codec in codecs.items()
            if codec.native is not None and not codec.holds_any
        }
        """The attribute of a value that msgspec has checked and copied."""
        self._converted = [
            (name, None if codec.native is not None else codec, attributes[name])
            for name, codec in codecs.items()
            if codec.native is None or codec.makes_floats
        ]
        """What is not yet the value when JSON has been decoded."""

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return the JSON types that may be at a path within the JSON object; none: nothing is."""
        if not path:
            return _OBJECT
        codec = self._codecs.get(path[0], _any if self._takes_more else None)
        return NOTHING if codec is None else codec.types_at(path[1:])

    def dump(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values as JSON, by name. Raises `ConversionError`, which holds each fault."""
        try:
            checked = msgspec.convert(values, self._shape)
        except msgspec.ValidationError:
            return self._one_by_one(values, "dump")
        dumped: dict[str, Any] = {}
        found = ConversionError()
        for name, value in values.items():
            attribute = self._checked.get(name)
            if attribute is not None:
                dumped[name] = getattr(checked, attribute)
                continue
            try:
                dumped[name] = self._codecs.get(name, _any).dump(value)
            except ConversionError as error:
                found.faults += error.within(name).faults
        if found.faults:
            raise found
        return dumped

    def load(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values that the JSON object holds. Raises `ConversionError`, as `dump`."""
        try:
            checked = msgspec.convert(data, self._shape)
        except msgspec.ValidationError:
            return self._one_by_one(data, "load")
        if not self._converted:
            return data
        loaded: dict[str, Any] = {}
        found = ConversionError()
        for name, codec, attribute in self._converted:
            if name not in data:
                continue
            if codec is None:
                if type(data[name]) is not float:  # an int, or a list that may hold one
                    loaded[name] = getattr(checked, attribute)
                continue
            try:
                loaded[name] = codec.load(data[name])
            except ConversionError as error:
                found.faults += error.within(name).faults
        if found.faults:
            raise found
        return {**data, **loaded} if loaded else data

    def fit_all(self, data: Sequence[Any]) -> bool:
        """Return whether all these JSON objects fit, and `load` would return them as they are."""
        if self._converted:
            return False
        try:
            msgspec.convert(data, list[self._shape])  # type: ignore[name-defined]  # made above
        except (msgspec.ValidationError, RecursionError):
            return False
        return True

    def _one_by_one(
        self, values: Mapping[str, Any], verb: Literal["dump", "load"]
    ) -> dict[str, Any]:
        """Convert each value by its own codec, which names the path that msgspec leaves out."""
        if not isinstance(values, Mapping):
            raise ConversionError(f"expected an object with names, got {type_text(values)}")
        found = ConversionError()
        for name in self._required - values.keys():
            found.add(name, f"missing; it has no default (expected {self._codecs[name].name})")
        converted: dict[str, Any] = {}
        for name, value in values.items():
            codec = self._codecs.get(name, _any if self._takes_more else None)
            try:
                if codec is None:
                    found.add(str(name), f"unknown; {self._known()}")
                else:
                    converted[name] = codec.dump(value) if verb == "dump" else codec.load(value)
            except ConversionError as error:
                found.faults += error.within(name).faults
        if found.faults:
            raise found
        return converted

    def _known(self) -> str:
        return f"the names are {', '.join(self._codecs)}" if self._codecs else "there are no names"


class DataclassCodec(Codec):
    """A dataclass: a JSON object with its fields."""

    json_types = frozenset({dict})
    rank = 10

    def __init__(self, kind: type) -> None:
        self.name = kind.__qualname__
        self._kind = kind
        self.fields = Fields({}, frozenset())

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return what the field of this name may have there."""
        return self.fields.types_at(path) if path else self.json_types

    def matches(self, value: object) -> bool:
        """Return whether it is an object of this class."""
        return type(value) is self._kind

    def dump(self, value: Any) -> Any:
        """Return an object; a mapping of the fields is taken too."""
        if self.matches(value):
            return self.fields.dump(self._fields_of(value))
        if isinstance(value, self._kind):
            raise ConversionError(
                f"expected {self.name}, got its subclass {type(value).__qualname__}, which would "
                f"be read back as {self.name}; annotate it as {type(value).__qualname__}"
            )
        if not isinstance(value, Mapping):
            raise self.mismatch(value)
        dumped = self.fields.dump(value)
        self.load(dumped)
        return dumped

    def load(self, data: Any) -> Any:
        """Make the object of its fields."""
        if type(data) is not dict:
            raise self.mismatch(data)
        loaded = self.fields.load(data)
        try:
            return self._make(loaded)
        except Exception as error:  # whatever its own __post_init__ raises
            raise ConversionError(f"{self.name} refused its fields: {error!r}") from error

    def _fields_of(self, value: Any) -> dict[str, Any]:
        return {n: getattr(value, n) for n in self.fields._codecs if hasattr(value, n)}  # noqa: SLF001

    def _make(self, loaded: Mapping[str, Any]) -> Any:
        return self._kind(**loaded)


class TypedDictCodec(DataclassCodec):
    """A TypedDict: a JSON object with its keys."""

    rank = 11

    @property
    def is_plain(self) -> bool:  # type: ignore[override]
        """Whether all its values are."""
        return self.fields.is_plain

    def matches(self, value: object) -> bool:
        """Return whether it is a dict."""
        return type(value) is dict

    def dump(self, value: Any) -> Any:
        """Return an object."""
        if not isinstance(value, Mapping):
            raise self.mismatch(value)
        return self.fields.dump(value)

    def _make(self, loaded: Mapping[str, Any]) -> Any:
        return loaded


class NamedTupleCodec(DataclassCodec):
    """A NamedTuple: a JSON list, as of any tuple; an object with its fields is read too."""

    json_types = frozenset({list, dict})
    rank = 12

    def types_at(self, path: tuple[str, ...]) -> frozenset[type]:
        """Return what the field of this name or of this position may have there."""
        names = dict(enumerate(self._names))
        if path and path[0].isdecimal():
            path = (names.get(int(path[0]), path[0]), *path[1:])
        return super().types_at(path)

    def dump(self, value: Any) -> Any:
        """Return a list."""
        if not self.matches(value):
            return self._dump_other(value)
        dumped = self.fields.dump(self._fields_of(value))
        return [dumped[name] for name in self._names]

    def _dump_other(self, value: Any) -> Any:
        if isinstance(value, self._kind) or not isinstance(value, list | tuple | Mapping):
            return super().dump(value)
        named = dict(value) if isinstance(value, Mapping) else self._by_name(value)
        dumped = self.fields.dump(named)
        self.load(dumped)
        return dumped

    def load(self, data: Any) -> Any:
        """Make the tuple of its items."""
        return super().load(self._by_name(data) if type(data) is list else data)

    def _by_name(self, items: Any) -> dict[str, Any]:
        if len(items) > len(self._names):
            raise ConversionError(
                f"expected {self.name} of {len(self._names)} items, got {len(items)}"
            )
        return dict(zip(self._names, items, strict=False))

    @property
    def _names(self) -> tuple[str, ...]:
        return self._kind._fields  # type: ignore[attr-defined,no-any-return]
