"""Describe the tables and views that people read for SQLAlchemy, for reports and joins.

They are for reading. `@task` or an INSERT submits tasks; only the functions of the database change
them.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Enum,
    Integer,
    Interval,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB

from peers.types import ParentFailure, TaskState

metadata: Final = MetaData(schema="peers")

_TIME: Final = DateTime(timezone=True)
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
    Column("scheduled_at", _TIME, nullable=False),
    Column("max_attempts", SmallInteger),
    Column("timeout", Interval),
    Column("idempotency_key", Text),
    Column("graph_id", BigInteger),
    Column("metadata", JSONB),
    Column("pending_parents", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("submitter", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("started_at", _TIME),
    Column("finished_at", _TIME),
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
    Column("started_at", _TIME, nullable=False),
    Column("failed_at", _TIME, nullable=False),
    Column("retry_at", _TIME),
)

dead_letter: Final = Table(
    "dead_letter",
    metadata,
    Column("task_id", BigInteger, primary_key=True),
    Column("kind", Text),
    Column("queue", Text),
    Column("args", JSONB),
    Column("attempts", Integer),
    Column("died_at", _TIME),
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
    Column("created_at", _TIME),
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
    Column("since", _TIME),
    Column("lease_expires_at", _TIME),
    Column("times_out_at", _TIME),
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
    Column("ready_in_paused_graphs", BigInteger),
)

graph: Final = Table(
    "graph",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("name", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("metadata", JSONB),
    Column("submitter", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("paused_at", _TIME),
)

graph_status: Final = Table(
    "graph_status",
    metadata,
    Column("graph_id", BigInteger, primary_key=True),
    Column("name", Text),
    Column("idempotency_key", Text),
    Column("metadata", JSONB),
    Column("submitter", Text),
    Column("created_at", _TIME),
    Column("paused", Boolean),
    Column("paused_at", _TIME),
    Column("tasks", BigInteger),
    Column("blocked", BigInteger),
    Column("scheduled", BigInteger),
    Column("ready", BigInteger),
    Column("running", BigInteger),
    Column("completed", BigInteger),
    Column("dead", BigInteger),
    Column("cancelled", BigInteger),
    Column("done_share", Double),
    Column("oldest_running_since", _TIME),
    Column("last_change", _TIME),
    Column("finished_at", _TIME),
    Column("eta", _TIME),
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
    Column("last_heartbeat", _TIME),
    Column("alive", Boolean),
    Column("joined_at", _TIME),
    Column("lost_at", _TIME),
    Column("lost_because", Text),
    Column("version", Text),
)

action: Final = Table(
    "action",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("at", _TIME, nullable=False),
    Column("role", Text, nullable=False),
    Column("client", Text),
    Column("host", INET),
    Column("verb", Text, nullable=False),
    Column("target", JSONB, nullable=False),
    Column("tasks", BigInteger),
    Column("children", BigInteger),
    Column("task_ids", ARRAY(BigInteger)),
    Column("reason", Text),
)
