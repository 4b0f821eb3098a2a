"""The SQL of the client's operations on schedules; see `peers.client.statements`."""

# ruff: noqa: S608 - every part is a literal of this file

from __future__ import annotations

from typing import Any, Final

from peers.client.schedules import ScheduleRecord
from peers.client.statements import Statement
from peers.errors import ScheduleNotFound

_SCHEDULE: Final = """
    to_jsonb(v) || settings || jsonb_build_object('anchor', s.anchor, 'read_at', peers.now())
"""
_FROM: Final = """
    peers.schedule s
    join peers.schedule_status v on v.name = s.name
    cross join lateral peers.schedule_settings(s) as settings
"""


def _schedule(row: Any) -> ScheduleRecord:
    if "missing" in row:
        raise ScheduleNotFound(f'there is no schedule "{row["missing"]}"')
    return ScheduleRecord.from_json(row)


def _schedules(rows: Any) -> list[ScheduleRecord]:
    return [ScheduleRecord.from_json(row) for row in rows]


def _nothing(_: Any) -> None:
    return None


GET_SCHEDULE: Final = Statement(
    "get_schedule",
    "select coalesce((select "
    + _SCHEDULE
    + "from"
    + _FROM
    + """where s.name = cast(:document as jsonb) ->> 'name'),
    jsonb_build_object('missing', cast(:document as jsonb) -> 'name'))::text
    """,
    _schedule,
    is_read_only=True,
)

FIND_SCHEDULES: Final = Statement(
    "find_schedules",
    "select coalesce(jsonb_agg(found.schedule order by found.name), '[]')::text"
    " from (select s.name, "
    + _SCHEDULE
    + " as schedule from (select cast(:document as jsonb)) as request(d),"
    + _FROM
    + """
    where s.name > coalesce(d ->> 'after', '')
      and (d ->> 'kind' is null or s.kind = d ->> 'kind')
      and (d ->> 'paused' is null or (s.paused_at is not null) = (d ->> 'paused')::boolean)
    order by s.name limit (select (d ->> 'limit')::bigint from
        (select cast(:document as jsonb)) as bound(d))) as found
    """,
    _schedules,
    is_read_only=True,
)

EXPLAIN_SCHEDULE: Final = Statement(
    "explain_schedule",
    """
    select to_json(peers.explain_schedule(d ->> 'name', (d ->> 'at')::timestamptz))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    str,
    is_read_only=True,
)

ADD_SCHEDULE: Final = Statement(
    "add_schedule",
    """
    select to_json(peers.add_schedule(d - 'replace', (d ->> 'replace')::boolean))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
PAUSE_SCHEDULE: Final = Statement(
    "pause_schedule",
    """
    select to_json(peers.pause_schedule(d ->> 'name', d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
RESUME_SCHEDULE: Final = Statement(
    "resume_schedule",
    """
    select to_json(peers.resume_schedule(d ->> 'name', d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
REMOVE_SCHEDULE: Final = Statement(
    "remove_schedule",
    """
    select to_json(peers.remove_schedule(d ->> 'name', d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
RUN_SCHEDULE: Final = Statement(
    "run_schedule",
    """
    select to_json(peers.run_schedule(d ->> 'name', d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    int,
)
BACKFILL_SCHEDULE: Final = Statement(
    "backfill_schedule",
    """
    select to_json(peers.backfill_schedule(
        d ->> 'name', (d ->> 'from_at')::timestamptz,
        coalesce((d ->> 'until_at')::timestamptz, peers.now()), d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    int,
)
CANCEL_BACKFILL: Final = Statement(
    "cancel_backfill",
    """
    select to_json(peers.cancel_backfill((d ->> 'id')::bigint, d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    bool,
)
