"""The values of rows that stand alone, beside the parts: nobody searches the input for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peers.predict.errors import OutputConflict
from peers.predict.outputs.durable import replaced

_ROW: Final = "peers.row"
_WITNESS: Final = "peers.witness"
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Values:
    """Rows that stand alone, and what is known of others in their chunk.

    `witnesses`: rows that were predicted, by which an endpoint shows whether it answers at all.
    """

    rows: pa.Table
    witnesses: pa.Table


def write_values(folder: Path, chunk: int, numbers: Sequence[int], values: Values) -> str:
    """Keeps these rows of the input; the name of the file, the same for the same rows.

    Raises OutputError.
    """
    digest = hashlib.blake2b(repr(list(numbers)).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    name = f"chunk-{chunk:06d}.alone-{digest}.parquet"
    rows, witnesses = values.rows.num_rows, values.witnesses.num_rows
    table = pa.concat_tables([values.rows, values.witnesses])
    table = table.append_column(_ROW, pa.array([*numbers, *[None] * witnesses], pa.int64()))
    table = table.append_column(_WITNESS, pa.array([False] * rows + [True] * witnesses))
    with replaced(folder / name) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    return name


def read_values(folder: Path, name: str, numbers: Sequence[int]) -> Values:
    """These rows of the file, in this order. Raises OutputConflict when it has not all of them."""
    try:
        table = pq.read_table(
            folder / name, partitioning=None, use_threads=False, page_checksum_verification=True
        )
    except (OSError, pa.ArrowException) as error:
        raise OutputConflict(
            f"{folder / name}, which has the values of rows that stand alone, is missing or "
            f"damaged: {error}",
            "Give the run another --run NAME to do it afresh.",
        ) from error
    places: Any = pc.index_in(pa.array(numbers, pa.int64()), table.column(_ROW).combine_chunks())
    if places.null_count:
        raise OutputConflict(f"{folder / name} lacks a row that stands alone")
    plain = table.select([column for column in table.column_names if column not in _OURS])
    return Values(plain.take(places), plain.filter(table.column(_WITNESS)))


_OURS: Final = frozenset({_ROW, _WITNESS})
