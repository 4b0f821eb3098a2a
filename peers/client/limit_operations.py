"""The operations on limits. Each function checks its arguments and returns a request.

`peers.client.forms` makes the functions that users call of them, as in `peers.client.operations`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from peers.client import limit_statements as statements
from peers.client.checks import moment_of, reason_of, text_of
from peers.client.filters import checked
from peers.client.kinds import Kind, kind_of
from peers.client.statements import Request
from peers.errors import BadArgument, BadLimit
from peers.limits import check_values, interval_of
from peers.spans import format_span, sql_interval, timedelta_of

if TYPE_CHECKING:
    from peers.client.limit_records import LimitRecord
    from peers.spans import Span

KEYS_MAX: Final = 1000
SHUT_MAX: Final = timedelta(days=3650)
_FIELDS: Final = (
    "kind", "queue", "key", "max_running", "starts", "per", "weight", "fair", "learns",
)  # fmt: skip


class LimitFields(TypedDict, total=False):
    """What `set_limit` sets, as keywords; None clears a value."""

    kind: Kind | None
    queue: str | None
    key: str | None
    max_running: int | None
    starts: int | None
    per: Span | None
    weight: str | None
    fair: bool
    learns: bool


def set_limit(
    name: str, *, reason: str | None = None, **fields: Unpack[LimitFields]
) -> Request[bool]:
    """Create a limit or change it, and return whether it is new.

    kind (its name, or a task) or queue: whose tasks it limits. For the others, see Limit. What is
    left out stays as it is; None clears a value. Of a task it checks key and weight against the
    annotations, as Limit does in `@task`. Running tasks go on: a smaller limit holds as they end.
    reason: is recorded in peers.action. Raises BadLimit.
    """
    unknown = [field for field in fields if field not in _FIELDS]
    if unknown:
        raise BadLimit(
            f"a limit has no field {', '.join(unknown)}", f"The fields are {', '.join(_FIELDS)}."
        )
    document: dict[str, Any] = {"name": _name(name), **fields}
    if (kind := fields.get("kind")) is not None:
        document["kind"] = kind_of(kind)
    check_values(document)
    if kind is not None and not isinstance(kind, str):
        kind.handler.require_limit_paths(fields.get("key"), fields.get("weight"))
    if "per" in fields:
        document["per"] = interval_of(fields["per"])
    return Request(statements.SET_LIMIT, {**document, **reason_of(reason)})


def get_limit(name: str, *, keys: int = 10) -> Request[LimitRecord]:
    """Return the limit of this name: what it says, and what runs and waits under it.

    keys: for how many keys it says that, 0 to 1000; those with the most waiting tasks come first.
    Raises LimitNotFound, BadArgument.
    """
    if type(keys) is not int or not 0 <= keys <= KEYS_MAX:
        raise BadArgument(f"keys must be 0 to {KEYS_MAX}, not {keys!r}")
    return Request(statements.GET_LIMIT, {"name": text_of("name", name), "keys": keys})


def find_limits(
    kind: Kind | None = None, *, queue: str | None = None
) -> Request[list[LimitRecord]]:
    """Return the limits of a kind, of a queue, or all of them, by name. Raises BadArgument."""
    return Request(statements.FIND_LIMITS, checked(kind=kind, queue=queue))


def remove_limit(name: str, *, reason: str | None = None) -> Request[None]:
    """Remove a limit. Its tasks run without it soon.

    If code declares it, the next peer that joins creates it again. reason: is recorded in
    peers.action. Raises LimitNotFound.
    """
    return Request(statements.REMOVE_LIMIT, {"name": text_of("name", name), **reason_of(reason)})


def shut_limit(
    name: str,
    *,
    seconds: Span | None = None,
    until: datetime | None = None,
    reason: str | None = None,
) -> Request[None]:
    """Shut a limit: no task under it starts. Running tasks continue.

    seconds: how long, up to 10 years, also as a timedelta or a text such as "1h". until: the time
    at which it opens, with a time zone. With neither it is shut until `open_limit`. reason: is
    shown with the limit, and recorded in peers.action. Raises LimitNotFound, BadLimit.
    """
    if seconds is not None and until is not None:
        raise BadLimit("seconds and until exclude each other", "Pass one of them.")
    if until is not None:
        moment_of(
            "until", until, error=BadLimit,
            hint='Write datetime.now(timezone.utc) + timedelta(hours=1), or pass seconds="1h".',
        )  # fmt: skip
    document = {
        "name": text_of("name", name), "seconds": _interval_of(seconds), **reason_of(reason),
        "until": None if until is None else until.isoformat(),
    }  # fmt: skip
    return Request(statements.SHUT_LIMIT, document)


def open_limit(name: str, *, reason: str | None = None) -> Request[bool]:
    """Open a limit, and return whether it was shut.

    reason: is recorded in peers.action. Raises LimitNotFound.
    """
    return Request(statements.OPEN_LIMIT, {"name": text_of("name", name), **reason_of(reason)})


def _interval_of(seconds: Span | None) -> str | None:
    """Return for how long to shut a limit, as SQL reads it. Raises BadLimit."""
    if seconds is None:
        return None
    try:
        span = timedelta_of(seconds)
    except ValueError as error:
        raise BadLimit(f"seconds {error}, not {format_span(seconds)}") from None
    if not timedelta() < span <= SHUT_MAX:
        raise BadLimit(
            "seconds must be more than 0 and at most 10 years (3650 days),"
            f" not {format_span(seconds)}",
            "Leave it out to shut the limit until open_limit.",
        )
    return sql_interval(span)


def _name(name: object) -> str:
    if isinstance(name, str):
        return name
    raise BadLimit(f"name of a limit must be a text, not {name!r}")
