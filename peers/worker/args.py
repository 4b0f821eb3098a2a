"""From a task's args, as they came, to what its handler takes."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from peers.handlers import registry
from peers.protocol.messages import AssignedTask


def checked(task: AssignedTask) -> Any:
    """The args by the signature of the task's handler. Raises what a check of them raises."""
    try:
        plain = msgspec.json.decode(task.args)
    except msgspec.MsgspecError:  # jsonb knows larger numbers than a double
        plain = json.loads(task.args)
    return registry()[task.kind].check(plain)
