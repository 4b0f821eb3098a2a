"""Check a submission (a kind, its args and its options) and write it as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from peers.client.options import Document, Options, options_document
from peers.errors import ArgsInvalid, BadTask
from peers.handlers import Handler, registry
from peers.types import JSON_MAX_BYTES
from peers.values import ConversionError, find_unwritable, jsonable, path_text, type_text


def document(kind: str, args: Mapping[str, object], options: Options) -> Document:
    """Return the document of a submission.

    If the kind's handler is known in this process, its annotations check the args and write them
    as JSON. Raises ArgsInvalid, BadTask, BadGraph.
    """
    fields = _document(kind, options)
    fields["args"] = _checked_args(registry().get(kind), args)
    return fields


def document_of_many(
    kind: str,
    args: Iterable[Mapping[str, object]],
    options: Options,
    unique_keys: Sequence[str | None] | None = None,
) -> Document:
    """Return the document of tasks that differ in their args and unique keys only.

    In it, `args` is a list. Raises ArgsInvalid, BadTask, BadGraph.
    """
    fields = _document(kind, options, unique_keys)
    if isinstance(args, Mapping | str | bytes) or not isinstance(args, Iterable):
        raise BadTask(f"args must be a list of dicts, one for each task, not {type_text(args)}")
    handler = registry().get(kind)
    fields["args"] = [
        _checked_args(handler, each, f"args[{index}]") for index, each in enumerate(args)
    ]
    return fields


def _document(
    kind: str, options: Options, unique_keys: Sequence[str | None] | None = None
) -> Document:
    fields = options_document(kind, options, unique_keys=unique_keys)
    if (handler := registry().get(kind)) is not None:
        fields.setdefault("queue", handler.queue)
        fields.setdefault("priority", handler.priority)
    if options.metadata is not None:
        fields["metadata"] = plain_json("metadata", options.metadata)
    return fields


def _checked_args(
    handler: Handler | None, args: Mapping[str, object], name: str = "args"
) -> dict[str, Any]:
    if handler is None:
        return plain_json(name, args)
    _require_object(name, args)
    try:
        plain = handler.dump_args(args)
    except ArgsInvalid as error:
        if name == "args":
            raise
        raise ArgsInvalid(f"{name}: {error.message}", error.hint) from error
    _require_size(name, plain)
    return plain


def plain_json(name: str, value: Mapping[str, object]) -> dict[str, Any]:
    """Return the value as plain JSON types. Dates, paths, UUIDs and models are written as text.

    Bytes become base64. An argument that is annotated as bytes reads it. Raises ArgsInvalid.
    """
    _require_object(name, value)
    try:
        plain: dict[str, Any] = jsonable(dict(value))
    except ConversionError as error:
        raise ArgsInvalid(error.describe(name)) from error
    _require_size(name, plain)
    return plain


def _require_object(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ArgsInvalid(f"{name} must be a JSON object, such as a dict, not {type_text(value)}")


_encode_json: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def _require_size(name: str, plain: dict[str, Any]) -> None:
    try:
        text = _encode_json(plain)
        if "\\u0000" in text and (found := find_unwritable(plain)) is not None:
            raise ArgsInvalid(f"{path_text(name, found[0])}: {found[1]}")
        size = len(text.encode())
    except (ValueError, RecursionError) as error:
        found = find_unwritable(plain)
        where = name if found is None else path_text(name, found[0])
        reason = f"cannot be written as JSON: {error}" if found is None else found[1]
        raise ArgsInvalid(f"{where}: {reason}") from error
    if size > JSON_MAX_BYTES:
        raise ArgsInvalid(
            f"{name} must be at most 1 MiB ({JSON_MAX_BYTES} bytes) of JSON, not {size}",
            "Store large data elsewhere and pass a reference to it.",
        )
