"""Outputs: a part for each chunk, and the whole that is assembled of them."""

from peers.predict.outputs.assembly import Extra, Written, assemble
from peers.predict.outputs.durable import replaced
from peers.predict.outputs.ownership import belongs_to, check_output
from peers.predict.outputs.parts import (
    annotate_part,
    note_of_part,
    part_path,
    read_part,
    rows_of_part,
    write_part,
)

__all__ = [
    "Extra",
    "Written",
    "annotate_part",
    "assemble",
    "belongs_to",
    "check_output",
    "note_of_part",
    "part_path",
    "read_part",
    "replaced",
    "rows_of_part",
    "write_part",
]
