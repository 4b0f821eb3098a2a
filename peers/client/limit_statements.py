"""The SQL of the client's operations on limits; see `peers.client.statements`."""

# ruff: noqa: S608 - every part is a literal of this file

from __future__ import annotations

from typing import Any, Final

from peers.client.limit_records import LimitRecord
from peers.client.statements import Statement
from peers.errors import LimitNotFound

_LIMIT: Final = "to_jsonb(s) || jsonb_build_object('per', extract(epoch from s.per), 'keys', "


def _limit(row: Any) -> LimitRecord:
    if "missing" in row:
        raise LimitNotFound(
            f'there is no limit "{row["missing"]}"', "`peers limit list` lists them."
        )
    return LimitRecord.from_json(row)


def _limits(rows: Any) -> list[LimitRecord]:
    return [LimitRecord.from_json(row) for row in rows]


def _nothing(_: Any) -> None:
    return None


GET_LIMIT: Final = Statement(
    "get_limit",
    "select coalesce((select "
    + _LIMIT
    + """(select jsonb_agg(to_jsonb(k)) from peers.limit_keys(s.name, (d ->> 'keys')::integer) k))
    from peers.limit_status s where s.name = d ->> 'name'),
    jsonb_build_object('missing', d -> 'name'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _limit,
    is_read_only=True,
)

FIND_LIMITS: Final = Statement(
    "find_limits",
    "select coalesce(jsonb_agg("
    + _LIMIT
    + """null) order by s.name), '[]')::text
    from (select cast(:document as jsonb)) as request(d), peers.limit_status s
    where (d ->> 'kind' is null or s.kind = d ->> 'kind')
      and (d ->> 'queue' is null or s.queue = d ->> 'queue')
    """,
    _limits,
    is_read_only=True,
)

SET_LIMIT: Final = Statement(
    "set_limit",
    """
    select to_json(peers.set_limit(d ->> 'name', d - 'name' - 'reason', d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    bool,
)
REMOVE_LIMIT: Final = Statement(
    "remove_limit",
    """
    select to_json(peers.remove_limit(d ->> 'name', d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
SHUT_LIMIT: Final = Statement(
    "shut_limit",
    """
    select to_json(peers.shut_limit(
        d ->> 'name',
        coalesce((d ->> 'until')::timestamptz, peers.now() + (d ->> 'seconds')::interval,
                 'infinity'),
        d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
OPEN_LIMIT: Final = Statement(
    "open_limit",
    """
    select to_json(peers.open_limit(d ->> 'name', d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    bool,
)
