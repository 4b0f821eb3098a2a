"""Outputs: each chunk writes a part, and the parts are assembled into the output."""

from peers.predict.atomic_files import atomic_write
from peers.predict.outputs.assembly import IsolatedPredictions, Written, assemble
from peers.predict.outputs.fitting import Fitted, RequestedColumns, fit
from peers.predict.outputs.isolated_values import (
    IsolatedValues,
    read_isolated_values,
    write_isolated_values,
)
from peers.predict.outputs.output_checks import check_carried, type_of
from peers.predict.outputs.output_type import OutputType, set_first_type
from peers.predict.outputs.ownership import (
    OUTPUT_DIGEST_NAME,
    check_output,
    is_written_by,
    refuse_foreign_output,
)
from peers.predict.outputs.parts import (
    annotate_part,
    is_whole,
    kept_columns,
    note_of_part,
    part_path,
    read_part,
    requested_columns,
    rows_of_part,
    write_part,
)
from peers.predict.outputs.sources import refuse_sources

__all__ = [
    "OUTPUT_DIGEST_NAME",
    "Fitted",
    "IsolatedPredictions",
    "IsolatedValues",
    "OutputType",
    "RequestedColumns",
    "Written",
    "annotate_part",
    "assemble",
    "atomic_write",
    "check_carried",
    "check_output",
    "fit",
    "is_whole",
    "is_written_by",
    "kept_columns",
    "note_of_part",
    "part_path",
    "read_isolated_values",
    "read_part",
    "refuse_foreign_output",
    "refuse_sources",
    "requested_columns",
    "rows_of_part",
    "set_first_type",
    "type_of",
    "write_isolated_values",
    "write_part",
]
