"""Check the server: its version, how far away it is, and its clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from peers.database.schema import OLDEST_SERVER
from peers.doctor.check import Check
from peers.doctor.findings import ERROR, NOTE, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.database.connection import Connection
    from peers.doctor.check import CheckContext

_TRIES: Final = 5
_FAR: Final = 0.1
_NOT_NEAR: Final = 0.02
_CLOCK_MAX: Final = 2.0
_PER_MAJOR_VERSION: Final = 10_000


class Reading(NamedTuple):
    """The database's clock, read once."""

    ahead: float
    """Seconds that the database's clock is ahead of this host's."""
    round_trip: float
    """Seconds between question and reply; half of it may be an error of `ahead`."""


def read_clock(connection: Connection) -> Reading:
    """Compare the clocks a few times, and return the reading with the shortest round trip."""
    with connection.transaction():  # within one, a statement is a single round trip
        readings = [_read(connection) for _ in range(_TRIES)]
    return min(readings, key=lambda reading: reading.round_trip)


def _read(connection: Connection) -> Reading:
    before, began = host_time(), time.monotonic()
    [(theirs,)] = connection.execute("select extract(epoch from clock_timestamp())").fetchall()
    took = time.monotonic() - began
    return Reading(float(theirs) - before - took / 2, took)


def host_time() -> float:
    """Return this host's time in seconds since 1970."""
    return datetime.now(UTC).timestamp()  # noqa: TID251  # it is compared with the database's


def _find_old_server(context: CheckContext) -> Iterator[Finding]:
    number = context.connection.info.server_version
    if number < OLDEST_SERVER:
        version = context.connection.info.parameter_status("server_version")
        yield Finding(
            ERROR, "server_old", "the server",
            f"the server is PostgreSQL {version}, and Peers needs "
            f"{OLDEST_SERVER // _PER_MAJOR_VERSION} or newer",
            "upgrade it with pg_upgrade, or use another server",
        )  # fmt: skip


def _find_slow_connection(context: CheckContext) -> Iterator[Finding]:
    took = read_clock(context.connection).round_trip
    if took > _NOT_NEAR:
        yield Finding(
            WARNING if took > _FAR else NOTE, "slow_connection", "the connection",
            f"a round trip to the database takes {took * 1000:.0f} ms: each claim and each outcome "
            "waits for one",
            "run peers near the database; more slots for each peer hide the delay",
        )  # fmt: skip


def _find_clock_difference(context: CheckContext) -> Iterator[Finding]:
    reading = read_clock(context.connection)
    if abs(reading.ahead) - reading.round_trip / 2 > _CLOCK_MAX:
        yield Finding(
            WARNING, "clock_difference", "this host",
            f"the clock of this host is {abs(reading.ahead):.1f} s "
            f"{'behind' if reading.ahead > 0 else 'ahead of'} the database's. Peers decides by the "
            "database's clock alone; the times in logs and of handlers are wrong",
            "timedatectl set-ntp true; on this host and on the server: timedatectl status",
        )  # fmt: skip


CHECKS: Final = (
    Check("server_old", "Is the server new enough?", _find_old_server, ("server_old",)),
    Check(
        "slow_connection", "How far away is the database?", _find_slow_connection,
        ("slow_connection",),
    ),
    Check(
        "clock_difference", "Does this host's clock agree with the database's?",
        _find_clock_difference, ("clock_difference",),
    ),
)  # fmt: skip
