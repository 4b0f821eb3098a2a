"""The values of rows that stand alone, beside the parts: nobody searches the input for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peers.predict.errors import OutputError
from peers.predict.outputs.durable import replaced

_ROW: Final = "peers.row"
_DIGEST_BYTES: Final = 8


def write_values(folder: Path, chunk: int, rows: Sequence[int], values: pa.Table) -> str:
    """Keeps these rows of the input; the name of the file, the same for the same rows.

    Raises OutputError.
    """
    digest = hashlib.blake2b(repr(list(rows)).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    name = f"chunk-{chunk:06d}.alone-{digest}.parquet"
    with replaced(folder / name) as temporary:
        table = values.append_column(_ROW, pa.array(rows, pa.int64()))
        pq.write_table(table, temporary, write_page_checksum=True)
    return name


def read_values(folder: Path, name: str, rows: Sequence[int]) -> pa.Table:
    """These rows of the file, in this order. Raises OutputError when it has not all of them."""
    try:
        table = pq.read_table(
            folder / name, partitioning=None, use_threads=False, page_checksum_verification=True
        )
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{folder / name}, which has the values of rows that stand alone, is missing or "
            f"damaged: {error}",
            "Give the run another --run NAME to do it afresh.",
        ) from error
    places: Any = pc.index_in(pa.array(rows, pa.int64()), table.column(_ROW).combine_chunks())
    if places.null_count:
        raise OutputError(f"{folder / name} lacks a row that stands alone")
    return table.drop_columns([_ROW]).take(places)
