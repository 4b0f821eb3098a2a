"""Read the arguments of commands: each function is the type of some, as argparse calls it."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta
from typing import Any, Final

from peers.cli.exact_json import TooDeepError, exact
from peers.spans import age_of, timedelta_of
from peers.types import NAME_MAX_LENGTH

TIME_FORM: Final = "ISO 8601; without an offset: in this machine's time zone"
_BIGINT_MAX: Final = (1 << 63) - 1
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def text(value: str) -> str:
    """Return the text; refuse an empty one, such as an unset shell variable."""
    if not value:
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def name(value: str) -> str:
    """Return the name of a kind, queue or graph."""
    if not 1 <= len(value) <= NAME_MAX_LENGTH:
        raise argparse.ArgumentTypeError(
            f"must have 1 to {NAME_MAX_LENGTH} characters, not {len(value)}"
        )
    if _CONTROL.search(value):  # no task can have it: a pause of such a queue would hold nothing
        raise argparse.ArgumentTypeError("must not contain control characters")
    return value


def task_id(value: str) -> int:
    """Return a task id."""
    if not value.isdecimal() or not 1 <= int(value) <= _BIGINT_MAX:
        raise argparse.ArgumentTypeError(f'a task id is a number from 1 on, not "{value}"')
    return int(value)


def graph_id(value: str) -> int:
    """Return the id of a graph."""
    if not value.isdecimal() or not 1 <= int(value) <= _BIGINT_MAX:
        raise argparse.ArgumentTypeError(f'a graph id is a number from 1 on, not "{value}"')
    return int(value)


def positive(value: str) -> int:
    """Return a number of 1 or more."""
    if not value.isdecimal() or not 1 <= int(value) <= _BIGINT_MAX:
        raise argparse.ArgumentTypeError(f'must be a number of 1 or more, not "{value}"')
    return int(value)


def task_ids(value: str) -> list[int]:
    """Return task ids that are separated by commas."""
    return [task_id(part.strip()) for part in value.split(",")]


def duration(value: str) -> timedelta:
    """Return a duration, such as "90s", "1h30m" or "1 hour"."""
    try:
        return timedelta_of(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{error}, not "{value}"') from None


def age(value: str) -> timedelta:
    """Return a duration that has a unit, such as "30d"."""
    try:
        return age_of(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{error}, not "{value}"') from None


def instant(value: str) -> datetime:
    """Return an ISO 8601 time, in this machine's time zone unless it names another."""
    try:
        return datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f'must be a time such as "2026-11-23T18:00" or "2026-11-23T17:00Z", not "{value}"'
        ) from None


def json_object(value: str) -> dict[str, Any]:
    """Return a JSON object whose numbers stay as they are written."""
    try:
        found = exact(value)
    except (ValueError, TooDeepError) as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('must be a JSON object such as {"path": "/srv/a.png"}')
    return found


def key_values(args: argparse.Namespace) -> dict[str, object]:
    """Return the words key=value of a command. A value is JSON, or a string if it is not."""
    pairs: dict[str, object] = {}
    for word in args.rest:
        key, equals, value = word.partition("=")
        if not key or not equals:
            args.parser.error(f'"{word}" is not key=value')
        if key in pairs:
            args.parser.error(f'"{key}" is given twice')
        try:
            pairs[key] = exact(value)
        except ValueError:
            pairs[key] = value
        except TooDeepError as error:
            args.parser.error(f'the value of "{key}" cannot be read: {error}')
    return pairs
