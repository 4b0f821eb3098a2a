"""Shorten texts for people without losing their beginning or end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_CUT: Final = " … "


def shortened(text: str, most: int) -> str:
    """Return the text, or its beginning and its end when it has more than `most` characters."""
    if len(text) <= most:
        return text
    tail = (most - len(_CUT)) // 2
    return f"{text[: most - len(_CUT) - tail]}{_CUT}{text[len(text) - tail :]}"


def one_line(text: str, most: int) -> str:
    """Return the text without line breaks, and shortened."""
    return shortened(" ".join(text.split()), most)


def error_text(error: BaseException, most: int = 4000) -> str:
    """Return the error's type and, if it has one, its text."""
    name = type(error).__name__
    try:
        text = str(error).strip()
    except Exception:  # noqa: BLE001  # an error of a model may be anything
        text = ""
    return f"{name}: {shortened(text, most)}" if text else name


def row_label(args: Mapping[str, Any]) -> str:
    """Return the name of a row in messages, from the args of its task."""
    id_ = "" if args["id"] is None else f" (id {args['id']!r})"
    return f"row {args['row']}{id_} of {args['input']}"
