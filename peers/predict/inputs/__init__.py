"""Inputs: planned once in a streaming pass, then read chunk by chunk by whoever has the task."""

from peers.predict.inputs.json_columns import plain_rows
from peers.predict.inputs.planning import plan
from peers.predict.inputs.query import hidden, snapshot
from peers.predict.inputs.reading import Rows, read

__all__ = ["Rows", "hidden", "plain_rows", "plan", "read", "snapshot"]
