"""Inputs: planned once in a streaming pass, then read chunk by chunk by whoever has the task."""

from peers.predict.inputs.plan import plan
from peers.predict.inputs.query import hidden, snapshot
from peers.predict.inputs.read import Rows, read

__all__ = ["Rows", "hidden", "plan", "read", "snapshot"]
