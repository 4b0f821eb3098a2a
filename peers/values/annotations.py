"""From an annotation to its codec."""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABCMeta
from collections import abc
from enum import Enum
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    get_args,
    get_origin,
)

import msgspec
from typing_extensions import ReadOnly, is_typeddict

from peers.values.codec import NULL, Codec, ConversionError, UnsupportedTypeError, type_text
from peers.values.containers import CollectionCodec, DictCodec, TupleCodec
from peers.values.plain import AnyCodec, BoolCodec, FloatCodec, IntCodec, NoneCodec, StrCodec
from peers.values.records import DataclassCodec, Fields, NamedTupleCodec, TypedDictCodec
from peers.values.scalars import SCALARS, EnumCodec, LiteralCodec
from peers.values.unions import UnionCodec

_PLAIN: Final[dict[Any, type[Codec]]] = {
    Any: AnyCodec, object: AnyCodec, None: NoneCodec, NULL: NoneCodec,
    bool: BoolCodec, int: IntCodec, float: FloatCodec, str: StrCodec,
}  # fmt: skip
_COLLECTIONS: Final[dict[Any, type]] = {
    list: list, abc.Sequence: list, abc.MutableSequence: list, abc.Collection: list,
    abc.Iterable: list, set: set, abc.Set: set, abc.MutableSet: set, frozenset: frozenset,
}  # fmt: skip
_MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)
_NO_BYTES: Final = (bytearray, memoryview)

# Pydantic is asked about types of these modules, and about those that have a hook for it. Any other
# class is unknown to it, and importing it to learn that would cost each worker 0.1 s.
_PYDANTIC_MODULES: Final = frozenset(
    {"pydantic", "pydantic_core", "annotated_types", "collections", "fractions", "ipaddress", "re",
     "zoneinfo"}
)  # fmt: skip
_HOOKS: Final = ("__get_pydantic_core_schema__", "__pydantic_validator__", "__pydantic_config__")


class UnsupportedCodec(Codec):
    """A class that has no JSON form, such as a socket."""

    json_types = frozenset()

    def __init__(self, kind: type) -> None:
        self.name = kind.__qualname__
        self._kind = kind

    def matches(self, value: object) -> bool:
        """Return whether it is of the class."""
        return isinstance(value, self._kind)

    def dump(self, value: Any) -> Any:
        """Raise `ConversionError`."""
        raise self.mismatch(value)

    def load(self, data: Any) -> Any:
        """Raise `ConversionError`."""
        raise self.mismatch(data)

    def mismatch(self, value: object) -> ConversionError:
        """Return the error."""
        return ConversionError(
            f"expected {self.name}, got {type_text(value)}; {self.name} has no JSON form, so pass "
            "a value from which the handler can make it"
        )


def codec_of(annotation: Any) -> Codec:
    """Return the codec of an annotation.

    Raises `NameError` if a class that it is made of names a type that is not there, and
    `UnsupportedTypeError` if JSON can hold no value of it unambiguously.
    """
    return _Builder().build(annotation)


class _Builder:
    """Builds a codec; a class that contains itself gets one codec."""

    def __init__(self) -> None:
        self._records: dict[type, DataclassCodec] = {}

    def build(self, annotation: Any) -> Codec:
        try:
            if annotation in _PLAIN:
                return _PLAIN[annotation]()
            if annotation in SCALARS:
                return SCALARS[annotation]
        except TypeError:
            return AnyCodec()  # it cannot be hashed, so it is no type
        if annotation in _NO_BYTES:
            raise UnsupportedTypeError(
                f"{annotation.__name__} has no form in JSON; annotate it as bytes"
            )
        origin = get_origin(annotation)
        if origin is not None:
            return self._special(annotation, origin, get_args(annotation))
        if hasattr(annotation, "__supertype__"):  # a NewType
            return self.build(annotation.__supertype__)
        if hasattr(annotation, "__value__"):  # a `type` statement
            return self.build(annotation.__value__)
        if isinstance(annotation, type):
            return self._container(annotation, ()) or self._class(annotation)
        if isinstance(annotation, TypeVar) and annotation.__bound__ is not None:
            return self.build(annotation.__bound__)
        return AnyCodec()

    def _special(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Codec:
        """Build the codec of a type with parameters."""
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        if origin is Literal:
            return self._literal(args)
        if origin is Annotated:
            inert = not any(map(_is_pydantic, annotation.__metadata__))
            return self.build(args[0]) if inert else _pydantic_codec(annotation)
        if origin in (Required, NotRequired, ReadOnly):
            return self.build(args[0])
        found = self._container(origin, args)
        if found is not None:
            return found
        if dataclasses.is_dataclass(origin) or _is_pydantic(origin):
            return _pydantic_codec(annotation)
        return AnyCodec()

    def _container(self, kind: Any, args: tuple[Any, ...]) -> Codec | None:
        if kind in _COLLECTIONS:
            return CollectionCodec(_COLLECTIONS[kind], self.build(args[0] if args else Any))
        if kind in _MAPPINGS:
            key, value = args or (Any, Any)
            return DictCodec(StrCodec() if key is Any else self.build(key), self.build(value))
        if kind is not tuple:
            return None
        if args[1:] == (...,) or not args:
            return CollectionCodec(tuple, self.build(args[0] if args else Any))
        return TupleCodec(tuple(self.build(arg) for arg in args if arg != ()))

    def _union(self, args: tuple[Any, ...]) -> Codec:
        members = [self.build(arg) for arg in args]
        if any(isinstance(member, AnyCodec) for member in members):
            return AnyCodec()
        native = None
        if all(member.native is not None for member in members):
            native = typing.Union[tuple(member.native for member in members)]  # noqa: UP007
            try:
                msgspec.json.Decoder(native)
            except TypeError:  # it takes one list type in a union, and one dict type
                native = None
        return UnionCodec(members, native)

    def _literal(self, args: tuple[Any, ...]) -> Codec:
        choices = [(value, self.build(type(value)).dump(value)) for value in args]
        return LiteralCodec(f"Literal[{', '.join(map(repr, args))}]", choices)

    def _class(self, kind: type) -> Codec:
        if issubclass(kind, Enum):
            return EnumCodec(kind)
        if _is_pydantic(kind) or _has_pydantic_defaults(kind):
            return _pydantic_codec(kind)
        if is_typeddict(kind):
            return self._record(kind, TypedDictCodec)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._record(kind, NamedTupleCodec)
        if dataclasses.is_dataclass(kind):
            return self._record(kind, DataclassCodec)
        if isinstance(kind, ABCMeta) or getattr(kind, "_is_protocol", False):
            return AnyCodec()  # a JSON value may be of it
        return UnsupportedCodec(kind)

    def _record(self, kind: type, of: type[DataclassCodec]) -> DataclassCodec:
        if kind not in self._records:
            record = self._records[kind] = of(kind)
            hints = typing.get_type_hints(kind, include_extras=True)
            names = _fields_of(kind, hints)
            codecs = {name: self.build(hints.get(name, Any)) for name in names}
            record.fields = Fields(codecs, frozenset(name for name in names if names[name]))
        return self._records[kind]


def _fields_of(kind: Any, hints: dict[str, Any]) -> dict[str, bool]:
    """Return the names of a record's fields, and whether a value for each is required."""
    if is_typeddict(kind):
        # by the hints too: __required_keys__ does not know what string annotations say
        return {
            name: get_origin(hint) is not NotRequired
            and (name in kind.__required_keys__ or get_origin(hint) is Required)
            for name, hint in hints.items()
        }
    if hasattr(kind, "_fields"):
        return {name: name not in kind._field_defaults for name in kind._fields}
    return {
        field.name: field.default is field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(kind)
        if field.init
    }


def _is_pydantic(thing: Any) -> bool:
    """Return whether a class, or what Annotated adds to one, means something to pydantic."""
    kind = thing if isinstance(thing, type) else type(thing)
    module = getattr(kind, "__module__", "").partition(".")[0]
    return module in _PYDANTIC_MODULES or any(hasattr(thing, hook) for hook in _HOOKS)


def _has_pydantic_defaults(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and any(
        type(field.default).__module__.startswith("pydantic") for field in dataclasses.fields(kind)
    )


def _pydantic_codec(annotation: Any) -> Codec:
    from peers.values.pydantic_types import PydanticCodec, UnknownTypeError  # it takes 0.1 s

    try:
        return PydanticCodec(annotation)
    except UnknownTypeError:
        return UnsupportedCodec(annotation) if isinstance(annotation, type) else AnyCodec()
