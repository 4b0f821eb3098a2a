"""What pydantic reads and writes: its models and dataclasses, and types with its constraints.

Only an annotation that needs pydantic imports this module.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, Final

from pydantic import (
    VERSION,
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    RootModel,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from peers.values.codec import (
    Codec,
    ConversionError,
    UnsupportedTypeError,
    error_at,
    find_unwritable,
    same,
    type_text,
)
from peers.values.plain import jsonable

# As base64, bytes come through whatever they hold; as text, only if they are UTF-8.
BASE64: Final = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
_NEVER: Final = (bytearray, memoryview)
_FIRST_WITH_BY_NAME: Final = (2, 11)
_BY_NAME: Final[dict[str, Any]] = (
    {"by_name": True, "by_alias": True}
    if tuple(map(int, VERSION.split(".")[:2])) >= _FIRST_WITH_BY_NAME
    else {}
)
"""Fields are written by name and read by name or alias, which pydantic before 2.11 cannot do."""


class UnknownTypeError(TypeError):
    """Pydantic does not know the type."""


class PydanticCodec(Codec):
    """A type that pydantic knows, as pydantic writes it in JSON; numbers are not read from text."""

    rank = 13

    def __init__(self, annotation: Any) -> None:
        self.name = getattr(annotation, "__qualname__", None) or str(annotation)
        self._kind = annotation if isinstance(annotation, type) else None
        is_model = self._kind is not None and issubclass(self._kind, BaseModel)
        is_record = is_model or hasattr(annotation, "__dataclass_fields__")
        if is_record and not issubclass(annotation, RootModel):
            self.json_types = frozenset({dict})
        self._adapter = _adapter(annotation)

    def matches(self, value: object) -> bool:
        """Return whether it is of the class; without a class, whatever pydantic takes."""
        return self._kind is None or type(value) is self._kind

    def dump(self, value: Any) -> Any:
        """Return the JSON of a value, or of a mapping of its fields."""
        if self._kind is None:
            return self._dump_value(value)
        if type(value) is self._kind:
            return self._dump_value(value)
        if isinstance(value, self._kind):
            raise ConversionError(
                f"expected {self.name}, got its subclass {type(value).__qualname__}, which would "
                f"be read back as {self.name}; annotate it as {type(value).__qualname__}"
            )
        data = jsonable(value)
        if type(data) not in self.json_types:
            raise self.mismatch(value)
        self.load(data)
        return data

    def _dump_value(self, value: Any) -> Any:
        try:
            data = self._adapter.dump_python(
                {"it": value}, mode="json", warnings=False, by_alias=not _BY_NAME, round_trip=True
            )["it"]
        except (PydanticSerializationError, RecursionError) as error:
            raise ConversionError(f"cannot be written as JSON: {error}") from None
        except Exception as error:  # whatever its own serializers raise
            raise ConversionError(f"{self.name} cannot be written: {error!r}") from error
        unwritable = find_unwritable(data)
        if unwritable is not None:
            raise error_at(*unwritable)
        loaded = self.load(data)
        changed = next(_changed(value, loaded), None)
        if changed is not None:
            raise changed
        return data

    def load(self, data: Any) -> Any:
        """Return what pydantic makes of the JSON value, in its strict mode."""
        try:
            text = json.dumps({"it": data}, allow_nan=False)
            return self._adapter.validate_json(text, strict=True, **_BY_NAME)["it"]
        except ValidationError as error:
            raise _conversion_error(error) from None
        except Exception as error:  # whatever its own validators raise
            raise ConversionError(f"{self.name} refused it: {error!r}") from error


def _conversion_error(invalid: ValidationError) -> ConversionError:
    error = ConversionError()
    for fault in invalid.errors(include_url=False, include_context=False):
        got = "" if fault["type"] == "missing" else f", got {type_text(fault['input'])}"
        error.faults.append((tuple(fault["loc"][1:]), fault["msg"] + got))
    return error


def _changed(value: Any, loaded: Any) -> Iterator[ConversionError]:
    """Yield a fault for each field that is not read back as it was, as str | date cannot be."""
    if isinstance(value, BaseModel) and type(value) is type(loaded):
        for name, field in type(value).model_fields.items():
            if not field.exclude:
                for error in _changed(getattr(value, name, None), getattr(loaded, name, None)):
                    yield error.within(name)
        for name, part in (value.model_extra or {}).items():
            for error in _changed(part, (loaded.model_extra or {}).get(name)):
                yield error.within(name)
    elif not same(value, loaded):
        yield ConversionError(
            f"{type_text(value)} would be read back as another value ({type_text(loaded)}); "
            "annotate one type that JSON can tell apart"
        )


@functools.lru_cache(maxsize=1000)
def reason_against(kind: type) -> str | None:
    """Return why no object of this class can be written, whatever it holds."""
    schema = getattr(kind, "__pydantic_core_schema__", None)
    return next(bytes_without_form(schema, base64=False), None)


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter.

    Raises `UnknownTypeError` and `UnsupportedTypeError`, and `NameError` if a type's name is
    missing.
    """
    typed_dict: Any = TypedDict
    fields = typed_dict("shape", {"it": annotation})
    shape = with_config(ConfigDict(extra="forbid", **BASE64))(fields)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(shape)
    except PydanticSchemaGenerationError as error:
        raise UnknownTypeError(str(error).split("\n")[0]) from None
    except PydanticUserError as error:  # a model with a field whose type is not there yet
        raise NameError(str(error)) from None
    try:
        adapter.validate_python({})
    except PydanticUserError as error:
        raise NameError(str(error)) from None
    except ValidationError:
        pass  # expected, for there is no value in it
    reason = next(bytes_without_form(adapter.core_schema, base64=True), None)
    if reason is not None:
        raise UnsupportedTypeError(reason)
    return adapter


def bytes_without_form(schema: Any, *, base64: bool) -> Iterator[str]:
    """Yield why bytes that a pydantic schema holds somewhere would not come through.

    `base64`: whether the types around it say that bytes are written as base64.
    """
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from bytes_without_form(part, base64=base64)
    if not isinstance(schema, dict):
        return
    kind, config = schema.get("type"), schema.get("config")
    if kind == "model" or (kind == "dataclass" and config is not None):
        base64 = dict(config or {}).items() >= dict(BASE64).items()
    if kind == "bytes" and not base64:
        yield (
            "bytes in a model only come through as base64; give it model_config = "
            'ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
        )
    if kind == "is-instance" and schema.get("cls") in _NEVER:
        yield f"{schema['cls'].__name__} has no form in JSON; annotate it as bytes"
    if kind == "union" and any(_is_bytes(choice) for choice in schema["choices"]):
        yield "bytes or something else cannot be told apart in JSON; take bytes, or bytes | None"
    for key, part in schema.items():
        if key not in ("metadata", "config", "cls"):
            yield from bytes_without_form(part, base64=base64)


def _is_bytes(choice: Any) -> bool:
    """Return whether a choice of a union, a schema or a schema with its label, is bytes."""
    schema = choice[0] if isinstance(choice, tuple) else choice
    return isinstance(schema, dict) and schema.get("type") == "bytes"
