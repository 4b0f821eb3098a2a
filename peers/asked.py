"""What a handler may ask of the scheduler, answered by its peer's parent process."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg

from peers import kernel
from peers.client import relay
from peers.db import Connection, is_connection_lost
from peers.errors import BadTask, DatabaseUnreachable
from peers.model import Claimed

# An application that keeps a row locked must not stop the loop that holds the leases.
_WAIT_BRIEFLY: Final = "set local lock_timeout to '250ms'"


def answer(connection: Connection, peer_id: UUID, task: Claimed, verb: str, body: bytes) -> bytes:
    """Do what the handler of `task` asks; `body` and the answer are JSON.

    parents: null → [{"id", "kind", "state", "result"}, …]. progress: {"done", "total"} → bool.
    hold_off: {"name", "seconds", "reason"} → seconds. held_off: {"name"} → seconds.
    submit, submit_graph: what the client sends → what it expects.
    Raises what the database refuses, and `BadTask` for what makes no sense: a handler may say
    anything, and the peer must outlive it. A lost connection stays psycopg's error.
    """
    try:
        return _answer(connection, peer_id, task, verb, body)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise BadTask(f"{verb}: cannot be understood ({error!r})") from error
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnreachable(
            f"{verb}: somebody has a row locked that this needs", "Try again."
        ) from error
    except psycopg.Error as error:
        if isinstance(error, psycopg.OperationalError) or is_connection_lost(error):
            raise
        raise BadTask(f"{verb}: {error}") from error


def _answer(connection: Connection, peer_id: UUID, task: Claimed, verb: str, body: bytes) -> bytes:
    match verb:
        case "parents":
            return b"[" + b",".join(
                b'{"id":%d,"kind":%s,"state":"%s","result":%s}'
                % (p.parent_id, json.dumps(p.kind).encode(), p.state.encode(), p.result or b"null")
                for p in kernel.parent_results(connection, task.task_id)
            ) + b"]"  # fmt: skip
        case "progress":
            told = json.loads(body)
            noted = kernel.progress(
                connection, peer_id, task.task_id, task.token, told["done"], told["total"]
            )
            return json.dumps(noted).encode()
        case "hold_off":
            told = json.loads(body)
            span = timedelta(seconds=told["seconds"])
            with connection.transaction():
                connection.execute(_WAIT_BRIEFLY)
                left = kernel.hold_off(connection, told["name"], span, told["reason"])
            return json.dumps(left).encode()
        case "held_off":
            return json.dumps(kernel.held_off(connection, json.loads(body)["name"])).encode()
        case "submit" | "submit_graph":
            with connection.transaction():
                connection.execute(_WAIT_BRIEFLY)
                return relay(connection, verb, body)
        case _:
            raise BadTask(
                f"a handler asked for {verb!r}, which its peer does not know; is the peer older?"
            )
