"""Check a submission (a kind, its args and its options) and write it as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from peers.client.options import Document, Options, options_document
from peers.errors import ArgsInvalid
from peers.handlers import Handler, registry
from peers.types import JSON_MAX_BYTES
from peers.values import ConversionError, find_unwritable, jsonable, path_text, type_text


def document(kind: str, args: Mapping[str, object], options: Options) -> Document:
    """Return the document of a submission.

    If the kind's handler is known in this process, its annotations check the args and write them
    as JSON. Raises ArgsInvalid, BadTask, BadGraph.
    """
    fields = document_of_many(kind, [args], options)
    fields["args"] = fields["args"][0]
    return fields


def document_of_many(
    kind: str,
    args: Iterable[Mapping[str, object]],
    options: Options,
    unique_keys: Sequence[str | None] | None = None,
) -> Document:
    """Return the document of tasks that differ in their args and unique keys only.

    In it, `args` is a list.
    """
    fields = options_document(kind, options, unique_keys=unique_keys)
    handler = registry().get(kind)
    fields["args"] = [_checked_args(handler, each) for each in args]
    if handler is not None:
        fields.setdefault("queue", handler.queue)
        fields.setdefault("priority", handler.priority)
    if options.metadata is not None:
        fields["metadata"] = plain_json("metadata", options.metadata)
    return {name: value for name, value in fields.items() if value is not None}


def _checked_args(handler: Handler | None, args: Mapping[str, object]) -> dict[str, Any]:
    if handler is None:
        return plain_json("args", args)
    _require_object("args", args)
    plain = handler.dump_args(args)
    _require_size("args", plain)
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
