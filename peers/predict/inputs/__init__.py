"""Inputs: looked through once, then read chunk by chunk by whoever has the task."""

from peers.predict.inputs.database_url import hidden
from peers.predict.inputs.json_columns import plain_rows
from peers.predict.inputs.planning import Source, Survey, chunks, survey
from peers.predict.inputs.reading import Rows, read
from peers.predict.inputs.text_options import TextOptions

__all__ = [
    "Rows",
    "Source",
    "Survey",
    "TextOptions",
    "chunks",
    "hidden",
    "plain_rows",
    "read",
    "survey",
]
