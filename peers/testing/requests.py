"""Record what an inline handler asks from the scheduler, and reply as the test has said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from peers.context import Parent
from peers.errors import PeersError
from peers.testing.kill_limit import KillLimit
from peers.worker.outcome import encode_result

if TYPE_CHECKING:
    from peers.testing.databases import Database

_FIRST_ID: Final = 1_000_001
"""Of the tasks that a handler submits without a database: no id that a test chose itself."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A call of `current_task().progress(done, total)`."""

    done: Any
    total: Any


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A call of `current_task().cooldown(…)`. name: None: of the only limit of the task."""

    name: str | None
    seconds: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """A task that a handler has submitted. `options` are those that are not the default."""

    id: int
    kind: str
    args: dict[str, Any]
    options: dict[str, Any]


class InlineRequests(KillLimit):
    """Replies to a handler in place of its peer.

    Submissions are recorded. With a database they are made there too; without one, they get ids
    that belong to no task.
    """

    def __init__(
        self,
        parents: Sequence[Parent],
        due_at: datetime | None,
        cooldowns: Mapping[str, float],
        database: Database | None,
    ) -> None:
        super().__init__()
        self.progress: list[Progress] = []
        self.cooldowns: list[Cooldown] = []
        self.submitted: list[Submission] = []
        self._parents = [_parent_document(parent) for parent in parents]
        self._due_at = due_at
        self._cooldowns_left = dict(cooldowns)
        self._database = database
        self._ids = count(_FIRST_ID)

    def tell(self, _execution_id: int, verb: str, payload: Any) -> None:
        """Record a progress report."""
        assert verb == "progress", verb
        self.progress.append(Progress(payload["done"], payload["total"]))

    def call(self, _execution_id: int, verb: str, payload: Any) -> Any:
        """Return the reply to a request, after its way through JSON."""
        return json.loads(json.dumps(self._reply(verb, json.loads(json.dumps(payload)))))

    def _reply(self, verb: str, payload: Any) -> Any:
        match verb:
            case "parents":
                return self._parents
            case "due_at":
                return None if self._due_at is None else self._due_at.astimezone(UTC).isoformat()
            case "start_cooldown":
                return self._start_cooldown(payload)
            case "cooldown_left":
                return self._cooldowns_left.get(payload["name"], 0.0)
            case _:
                return self._perform(verb, payload)

    def _perform(self, verb: str, payload: Any) -> Any:
        """Perform a request of the client, in the database if there is one."""
        if self._database is not None:
            reply = self._database.perform_for_handler(verb, payload)
        elif verb.startswith("submit"):
            reply = self._invent(verb, payload)
        else:
            raise PeersError(
                f"the handler asked for {verb}, which needs a database",
                "Use the fixture peers_database, or pass database=… to TaskRun.",
            )
        if verb.startswith("submit"):
            self._record(verb, payload, reply)
        return reply

    def _start_cooldown(self, payload: Any) -> float:
        cooldown = Cooldown(payload["name"], payload["seconds"], payload["reason"])
        self.cooldowns.append(cooldown)
        if cooldown.name is not None:
            left = max(self._cooldowns_left.get(cooldown.name, 0.0), cooldown.seconds)
            self._cooldowns_left[cooldown.name] = left
            return left
        return cooldown.seconds

    def _invent(self, verb: str, payload: Any) -> Any:
        match verb:
            case "submit":
                return next(self._ids)
            case "submit_unique":
                return self._new_row()
            case "submit_many":
                return [next(self._ids) for _ in payload["args"]]
            case "submit_many_unique":
                return [self._new_row() for _ in payload["args"]]
            case _:
                names = [node["name"] for node in payload["nodes"]]
                tasks = {name: next(self._ids) for name in names}
                return {"graph": next(self._ids), "tasks": tasks, "known": None}

    def _new_row(self) -> dict[str, Any]:
        return {"id": next(self._ids), "is_new": True, "replaced": False}

    def _record(self, verb: str, payload: Any, reply: Any) -> None:
        if verb == "submit_graph":
            for node in payload["nodes"]:
                self._add(reply["tasks"][node["name"]], node)
        elif verb.startswith("submit_many"):
            for args, row in zip(payload["args"], reply, strict=True):
                self._add(_id_of(row), {**payload, "args": args})
        else:
            self._add(_id_of(reply), payload)

    def _add(self, id: int, document: Mapping[str, Any]) -> None:
        options = {
            name: value for name, value in document.items() if name not in ("kind", "args", "name")
        }
        self.submitted.append(Submission(id, document["kind"], document.get("args") or {}, options))


def _id_of(row: Any) -> int:
    return int(row["id"] if isinstance(row, Mapping) else row)


def _parent_document(parent: Parent) -> dict[str, Any]:
    """Return a parent as a peer passes it on, with its result encoded like that of its handler."""
    result = json.loads(encode_result(parent.kind, parent.result))
    if parent.state != "completed":
        result = None
    return {"id": parent.id, "kind": parent.kind, "state": parent.state, "result": result}
