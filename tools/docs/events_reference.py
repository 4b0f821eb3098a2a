"""docs/events.md: every event that a peer logs, by emitting each of them."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import peers.events
from tools.docs.markdown import code, notice, table

_INTRODUCTION: Final = """
# Log events

In a line of JSON, `event` is the name, `message` the sentence, and each field has a key of its own.
Durations are in seconds. Other lines come from handlers and their libraries; those that a handler
logs have the fields of its task.

"""
_FORMAT: Final = re.compile(r"%\((\w+)\)[.\d]*[dsf]")


class _Collector(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def page() -> str:
    """Return the page."""
    rows = [
        (code(name), record.levelname.lower(), _sentence(record), _purpose(function))
        for name, function, record in _events()
    ]
    head = ("event", "level", "message", "meaning")
    return notice("peers/events") + _INTRODUCTION + table(head, sorted(rows))


def _events() -> Iterator[tuple[str, Callable[..., None], logging.LogRecord]]:
    for name in peers.events.__all__:
        function = getattr(peers.events, name)
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        if not all(each.kind is each.KEYWORD_ONLY for each in parameters):
            continue  # a helper, not an event
        with _collected() as records:
            function(**{each.name: None for each in parameters if each.default is each.empty})
        yield name, function, records[0]


@contextmanager
def _collected() -> Iterator[list[logging.LogRecord]]:
    logger, collector = logging.getLogger("peers"), _Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield collector.records
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate


def _sentence(record: logging.LogRecord) -> str:
    """Return the message with the names of its fields in the places of their values."""
    return _FORMAT.sub(r"`\1`", str(record.msg))


def _purpose(function: Callable[..., Any]) -> str:
    """Return the docstring in one line, without its "Report that"."""
    text = " ".join((function.__doc__ or "").split())
    text = text.removeprefix("Report ").removeprefix("that ")
    return text[:1].upper() + text[1:]
