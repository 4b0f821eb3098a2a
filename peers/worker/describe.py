"""Describe what a handler raised. Describing never raises, and a description has a bounded size.

An exception is the user's object. Its text, its class, its notes and its causes may be anything:
properties that raise, a hundred megabytes, a cycle. So the built-in attributes are read by the
accessors of BaseException itself, and everything else inside a try. Python's `traceback` module is
used for frames only: for a SyntaxError with odd fields it raises, or underlines a billion columns.
"""

from __future__ import annotations

import stat
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from peers.errors import PeersError

T = TypeVar("T")

LONGEST_MESSAGE: Final = 8_000
LONGEST_TRACEBACK: Final = 64_000
LONGEST_TYPE: Final = 500
_MOST_RELATED: Final = 32
"""The most exceptions in one description: causes, contexts and members of groups together."""
_MOST_NOTES: Final = 20
_LONGEST_NOTE: Final = 1_000
_FIRST_FRAMES: Final = 20
_LAST_FRAMES: Final = 40
_LARGEST_SOURCE: Final = 10 << 20

_CAUSED: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_DURING: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"

_cause_of: Final = BaseException.__dict__["__cause__"].__get__
_context_of: Final = BaseException.__dict__["__context__"].__get__
_is_context_hidden: Final = BaseException.__dict__["__suppress_context__"].__get__
_frames_of: Final = BaseException.__dict__["__traceback__"].__get__
_members_of: Final = BaseExceptionGroup.__dict__["exceptions"].__get__
_module_of: Final = type.__dict__["__module__"].__get__
_name_of: Final = type.__dict__["__qualname__"].__get__


@dataclass(frozen=True, slots=True)
class Description:
    """Texts that Postgres stores: without NUL and lone surrogates, none longer than its bound."""

    error_type: str
    message: str
    traceback: str | None


def describe(error: BaseException) -> Description:
    """Describe `error`: its type, its message, and the traceback from the user's code on."""
    error_type = type_name(error)
    return Description(
        error_type,
        _guarded(lambda: _message(error), _no_text(error_type)),
        _guarded(lambda: clean("".join(_chain(error, [_MOST_RELATED])), LONGEST_TRACEBACK), None),
    )


def type_name(error: BaseException) -> str:
    """Return the name by which the class is imported; of builtins and our own only the name."""
    return _guarded(lambda: clean(_type_name(type(error)), LONGEST_TYPE), "Exception")


def related(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, its causes and contexts, and members of groups, each once, up to a bound."""
    waiting, seen = [error], {id(error)}
    while waiting and len(seen) <= _MOST_RELATED:
        one = waiting.pop(0)
        yield one
        for other in (_cause_of(one), _context_of(one), *_some_members(one)):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)


def clean(text: str, longest: int) -> str:
    """Return a text that Postgres can store; of a long text only the end, which says most."""
    length = str.__len__(text)
    text = str.__getitem__(
        text, slice(max(0, length - longest), None)
    )  # a subclass may override both
    text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    if length > longest or len(text) > longest:
        text = "…" + text[-longest:]
    return text


def _guarded(make: Callable[[], T], otherwise: T) -> T:
    try:
        return make()
    except BaseException:  # noqa: BLE001  # user code may raise anything, and memory may be out
        return otherwise


def _type_name(kind: type) -> str:
    module, name = _module_of(kind), _name_of(kind)
    if issubclass(kind, PeersError) or not isinstance(module, str) or module == "builtins":
        return str(name)
    return f"{module}.{name}"


def _no_text(error_type: str) -> str:
    return f"an error of type {error_type}, whose text cannot be read"


def _message(error: BaseException) -> str:
    text = str(error)
    return clean(text, LONGEST_MESSAGE)


# ------------------------------------------------------------------------------------- tracebacks


def _chain(error: BaseException, left: list[int], indent: str = "") -> Iterator[str]:
    """Yield the causes of `error`, the first one first, and `error` itself, as Python prints them.

    `left` holds how many more exceptions may be described.
    """
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    one: BaseException | None = error
    joint = ""
    while one is not None and id(one) not in seen and left[0] > 0:
        left[0] -= 1
        seen.add(id(one))
        links.append((one, joint))
        cause = _cause_of(one)
        joint = _DURING if cause is None else _CAUSED
        one = _context_of(one) if cause is None and not _is_context_hidden(one) else cause
    for link, joint in reversed(links):
        yield from _exception(link, left, indent)
        yield _indented(joint, indent)


def _exception(error: BaseException, left: list[int], indent: str) -> Iterator[str]:
    """Yield one exception without its causes, with the members of a group."""
    user_frames = _first_of_user(_frames_of(error))
    if user_frames is not None:
        lines = _guarded(lambda: _frames(user_frames), "") or _plain_frames(user_frames)
        yield _indented("Traceback (most recent call last):\n" + lines, indent)
    kind = type_name(error)
    message = _guarded(lambda: _message(error), _no_text(kind))
    yield _indented(f"{kind}: {message}\n" if message else f"{kind}\n", indent)
    nothing: list[str] = []
    for line in _guarded(lambda: _source_of(error), nothing):
        yield _indented(line, indent)
    for note in _guarded(lambda: _notes(error), nothing):
        yield _indented(note + "\n", indent)
    members = _some_members(error)
    for member in members:
        if left[0] == 0:
            yield _indented("  … and more exceptions\n", indent)
            break
        yield from _chain(member, left, indent + "  | ")


def _some_members(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    members: tuple[BaseException, ...] = _guarded(lambda: _members_of(error), ())
    return members[:_MOST_RELATED]


def _source_of(error: BaseException) -> list[str]:
    """Return the line that is not valid Python."""
    text = error.text if issubclass(type(error), SyntaxError) else None  # type: ignore[attr-defined]
    return [f"    {clean(text, _LONGEST_NOTE).strip()}\n"] if isinstance(text, str) else []


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    if type(notes) is not list:
        return []
    return [clean(note, _LONGEST_NOTE) for note in notes[:_MOST_NOTES] if isinstance(note, str)]


def _first_of_user(frames: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's code on, without the frames of the worker."""
    while frames is not None and _is_ours(frames.tb_frame.f_globals.get("__package__")):
        frames = frames.tb_next
    return frames


def _is_ours(package: object) -> bool:
    return isinstance(package, str) and package in ("peers.worker", "importlib")


def _frames(frames: TracebackType | None) -> str:
    """Format the first and the last frames."""
    count, files = 0, set()
    one = frames
    while one is not None:
        count += 1
        files.add(one.tb_frame.f_code.co_filename)
        one = one.tb_next
    if not all(_is_readable(file) for file in files):
        return _plain_frames(frames)
    if count <= _FIRST_FRAMES + _LAST_FRAMES:
        return "".join(traceback.extract_tb(frames).format())
    first = traceback.extract_tb(frames, _FIRST_FRAMES).format()
    last = traceback.extract_tb(frames, -_LAST_FRAMES).format()
    between = f"  … {count - _FIRST_FRAMES - _LAST_FRAMES} more frames\n"
    return "".join([*first, between, *last])


def _is_readable(file: str) -> bool:
    """Return whether its lines can be shown without reading a device, a pipe or a huge file.

    A file that does not exist is not read; its lines may come from the loader of its module.
    """
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size <= _LARGEST_SOURCE


def _plain_frames(frames: TracebackType | None) -> str:
    """Format frames without the lines of the source."""
    lines: list[str] = []
    while frames is not None and len(lines) < _FIRST_FRAMES + _LAST_FRAMES:
        code = frames.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frames.tb_lineno}, in {code.co_name}\n')
        frames = frames.tb_next
    return "".join(lines)


def _indented(text: str, indent: str) -> str:
    return text if not indent else "".join(indent + line for line in text.splitlines(keepends=True))
