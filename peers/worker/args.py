"""Convert the stored args of a task to the values that its handler takes."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from peers.handlers import registry
from peers.protocol.messages import AssignedTask


def load_args(task: AssignedTask) -> Any:
    """Return the args as the handler's annotations say. Raises `ArgsInvalid`."""
    try:
        data = msgspec.json.decode(task.args)
    except msgspec.MsgspecError:  # jsonb holds numbers that no double can hold
        data = json.loads(task.args)
    return registry()[task.kind].load_args(data)
