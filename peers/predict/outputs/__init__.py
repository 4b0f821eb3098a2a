"""Outputs: a part for each chunk, and the whole that is assembled of them."""

from peers.predict.outputs.agreed import OutputType, start_with
from peers.predict.outputs.assembly import Extra, Written, assemble
from peers.predict.outputs.durable import replaced
from peers.predict.outputs.fitting import Asked, Fitted, fit
from peers.predict.outputs.ownership import (
    RECEIPT_NAME,
    check_output,
    is_written_by,
    refuse_foreign,
)
from peers.predict.outputs.parts import (
    annotate_part,
    asked_of,
    is_whole,
    kept_columns,
    note_of_part,
    part_path,
    read_part,
    rows_of_part,
    write_part,
)
from peers.predict.outputs.seen import check_carried, type_of
from peers.predict.outputs.sources import refuse_sources
from peers.predict.outputs.values import Values, read_values, write_values

__all__ = [
    "RECEIPT_NAME",
    "Asked",
    "Extra",
    "Fitted",
    "OutputType",
    "Values",
    "Written",
    "annotate_part",
    "asked_of",
    "assemble",
    "check_carried",
    "check_output",
    "fit",
    "is_whole",
    "is_written_by",
    "kept_columns",
    "note_of_part",
    "part_path",
    "read_part",
    "read_values",
    "refuse_foreign",
    "refuse_sources",
    "replaced",
    "rows_of_part",
    "start_with",
    "type_of",
    "write_part",
    "write_values",
]
