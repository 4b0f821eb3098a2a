"""Check the types of arguments, so that a wrong one is refused by its name."""

from __future__ import annotations

import operator
from datetime import datetime
from typing import Final

from peers.errors import BadArgument
from peers.spans import seconds_of

_WAIT_MAX: Final = 100 * 365 * 86400.0


def text_of(
    name: str, value: object, *, hint: str | None = None, error: type[BadArgument] = BadArgument
) -> str:
    """Return a text. Raises BadArgument, or the given class of it."""
    if isinstance(value, str):
        return value
    raise error(f"{name} must be a string, not {value!r}", hint)


def reason_of(reason: object) -> dict[str, str]:
    """Return the reason of an operation, as a request has it. Raises BadArgument."""
    return {} if reason is None else {"reason": text_of("reason", reason)}


def switch_of(name: str, value: object, *, error: type[BadArgument] = BadArgument) -> bool:
    """Return True or False. Raises BadArgument, or the given class of it."""
    if isinstance(value, bool):
        return value
    raise error(f"{name} must be True or False, not {value!r}")


def id_of(value: object, what: str = "task", *, name: str = "id") -> int:
    """Return an id as an int; other integers, such as NumPy's, are taken too.

    Raises BadArgument.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]  # raises TypeError for others
    except TypeError:
        pass
    raise BadArgument(f"{name} must be the id of a {what}, a whole number, not {value!r}")


def moment_of(
    name: str, value: object, *, hint: str, error: type[BadArgument] = BadArgument
) -> datetime:
    """Return a datetime with a time zone. Raises BadArgument, or the given class of it.

    hint: what else the caller can pass.
    """
    if not isinstance(value, datetime):
        raise error(f"{name} must be a datetime with a time zone, not {value!r}", hint)
    if value.tzinfo is None:
        raise error(f"{name} {value} has no time zone", hint)
    return value


def wait_of(timeout: object) -> float | None:
    """Return in seconds how long a caller waits for a result; None: for ever. Raises BadArgument.

    A negative duration counts as 0, so that callers can pass what is left until a deadline. Waiting
    takes at most 100 years, because threads cannot wait for much longer.
    """
    if timeout is None:
        return None
    try:
        seconds = seconds_of(timeout)
    except ValueError as error:
        raise BadArgument(f"timeout {error}, not {timeout!r}") from None
    if not seconds <= _WAIT_MAX:  # this refuses NaN as well
        raise BadArgument(
            f"timeout must be at most 100 years, not {timeout!r}",
            "0 looks once, None waits until the task has ended.",
        )
    return max(0.0, seconds)
