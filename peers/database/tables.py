"""The tables and views that people read, typed for SQLAlchemy: for reports and joins.

For reading. Tasks are submitted by `@task` or an INSERT of the columns that CONTRACT names, and
changed by verbs only.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Enum,
    Integer,
    Interval,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from peers.types import ParentFailure, TaskState

metadata: Final = MetaData(schema="peers")

_INSTANT: Final = DateTime(timezone=True)
_STATE: Final = Enum(
    TaskState,
    name="task_state",
    metadata=metadata,
    create_type=False,
    values_callable=lambda states: [state.value for state in states],
)
_POLICY: Final = Enum(
    ParentFailure,
    name="parent_failure_policy",
    metadata=metadata,
    create_type=False,
    values_callable=lambda policies: [policy.value for policy in policies],
)

task: Final = Table(
    "task",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("args", JSONB, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("scheduled_at", _INSTANT, nullable=False),
    Column("max_attempts", SmallInteger),
    Column("timeout", Interval),
    Column("idempotency_key", Text),
    Column("metadata", JSONB),
    Column("pending_parents", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("submitter", Text, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
    Column("started_at", _INSTANT),
    Column("finished_at", _INSTANT),
    Column("result", JSONB),
    Column("stopped_because", Text),
)

dependency: Final = Table(
    "dependency",
    metadata,
    Column("parent_id", BigInteger, primary_key=True),
    Column("child_id", BigInteger, primary_key=True),
    Column("on_parent_failure", _POLICY, nullable=False),
    Column("waived", Boolean, nullable=False),
)

failure: Final = Table(
    "failure",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("task_id", BigInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("token", Uuid, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("traceback", Text),
    Column("exit_signal", Text),
    Column("exit_code", Integer),
    Column("peer_id", Uuid, nullable=False),
    Column("host", Text),
    Column("pid", Integer),
    Column("started_at", _INSTANT, nullable=False),
    Column("failed_at", _INSTANT, nullable=False),
    Column("retry_at", _INSTANT),
)

dead_letter: Final = Table(
    "dead_letter",
    metadata,
    Column("task_id", BigInteger, primary_key=True),
    Column("kind", Text),
    Column("queue", Text),
    Column("args", JSONB),
    Column("attempts", Integer),
    Column("died_at", _INSTANT),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("exit_signal", Text),
    Column("peer", Uuid),
    Column("host", Text),
    Column("held_children", BigInteger),
    Column("failures", JSONB),
    Column("metadata", JSONB),
    Column("submitter", Text),
    Column("created_at", _INSTANT),
)

running: Final = Table(
    "running",
    metadata,
    Column("task_id", BigInteger, primary_key=True),
    Column("kind", Text),
    Column("queue", Text),
    Column("peer_id", Uuid),
    Column("host", Text),
    Column("pid", Integer),
    Column("attempt", SmallInteger),
    Column("max_attempts", SmallInteger),
    Column("since", _INSTANT),
    Column("lease_expires_at", _INSTANT),
    Column("times_out_at", _INSTANT),
    Column("progress_done", BigInteger),
    Column("progress_total", BigInteger),
    Column("cancel_requested", Boolean),
)

queue_status: Final = Table(
    "queue_status",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("ready", BigInteger),
    Column("scheduled", BigInteger),
    Column("running", BigInteger),
    Column("blocked", BigInteger),
    Column("dead", BigInteger),
    Column("oldest_ready", Interval),
    Column("paused", Boolean),
)

peer_status: Final = Table(
    "peer_status",
    metadata,
    Column("peer_id", Uuid, primary_key=True),
    Column("host", Text),
    Column("pid", Integer),
    Column("queues", JSONB),
    Column("kinds", ARRAY(Text)),
    Column("running", BigInteger),
    Column("last_heartbeat", _INSTANT),
    Column("alive", Boolean),
    Column("joined_at", _INSTANT),
    Column("lost_at", _INSTANT),
)
