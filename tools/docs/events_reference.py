"""docs/events.md: every event that a peer logs, as it is declared."""

from __future__ import annotations

import logging
import re
from typing import Final

from peers import events
from tools.docs.markdown import code, notice, table

_INTRODUCTION: Final = """
# Log events

In a line of JSON, `event` is the name, `message` the sentence, and each field has a key of its own.
In the journal it is `PEERS_EVENT`, and the field `task_id` is `PEERS_TASK_ID`. Names and fields are
stable; sentences are not. Every line of a peer that has joined has its `peer_id`. Durations are in
seconds. Other lines come from handlers and their libraries; those that a handler logs have the
fields of its task. [Logs](logs.md) shows how lines look, and how to search for them.

"""
_FORMAT: Final = re.compile(r"%\((\w+)\)[.\d]*[dsf]")


def page() -> str:
    """Return the page."""
    rows = [
        (
            code(event.name), logging.getLevelName(event.level).lower(), _sentence(event),
            ", ".join(map(code, event.fields)), _purpose(event),
        )
        for event in events.all_events.values()
    ]  # fmt: skip
    head = ("event", "level", "message", "fields", "meaning")
    return notice("peers/events") + _INTRODUCTION + table(head, sorted(rows))


def _sentence(event: events.Event) -> str:
    """Return the message with the names of its fields in the places of their values."""
    return _FORMAT.sub(r"`\1`", event.sentence)


def _purpose(event: events.Event) -> str:
    """Return the meaning in one line, without its "Report that"."""
    text = " ".join(event.meaning.split())
    text = text.removeprefix("Report ").removeprefix("that ")
    return text[:1].upper() + text[1:]
