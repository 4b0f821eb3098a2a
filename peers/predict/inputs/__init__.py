"""Inputs: surveyed once by the command, then read chunk by chunk by the workers."""

from peers.predict.inputs.database_url import hidden
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
    "read",
    "survey",
]
