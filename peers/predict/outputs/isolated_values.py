"""Store the values of isolated rows beside the parts, so that the input is not read again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peers.predict.atomic_files import atomic_write
from peers.predict.errors import OutputConflict

_ROW: Final = "peers.row"
_KNOWN_GOOD: Final = "peers.known_good"
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class IsolatedValues:
    """The values of isolated rows, and of some other rows of their chunk.

    `known_good`: rows that were predicted. They show whether an endpoint works at all.
    """

    rows: pa.Table
    known_good: pa.Table


def write_isolated_values(
    folder: Path, chunk: int, numbers: Sequence[int], values: IsolatedValues
) -> str:
    """Write these rows of the input to a file; return its name, the same for the same rows.

    Raises OutputError.
    """
    digest = hashlib.blake2b(repr(list(numbers)).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    name = f"chunk-{chunk:06d}.isolated-{digest}.parquet"
    rows, known_good = values.rows.num_rows, values.known_good.num_rows
    table = pa.concat_tables([values.rows, values.known_good])
    table = table.append_column(_ROW, pa.array([*numbers, *[None] * known_good], pa.int64()))
    table = table.append_column(_KNOWN_GOOD, pa.array([False] * rows + [True] * known_good))
    with atomic_write(folder / name) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    return name


def read_isolated_values(folder: Path, name: str, numbers: Sequence[int]) -> IsolatedValues:
    """Return these rows of the file, in this order. Raises OutputConflict if one is missing."""
    try:
        table = pq.read_table(
            folder / name, partitioning=None, use_threads=False, page_checksum_verification=True
        )
    except (OSError, pa.ArrowException) as error:
        raise OutputConflict(
            f"{folder / name}, which has the values of isolated rows, is missing or "
            f"damaged: {error}",
            "Give the run another --run NAME to start it again.",
        ) from error
    places: Any = pc.index_in(pa.array(numbers, pa.int64()), table.column(_ROW).combine_chunks())
    if places.null_count:
        raise OutputConflict(f"{folder / name} lacks an isolated row")
    plain = table.select([column for column in table.column_names if column not in _OURS])
    return IsolatedValues(plain.take(places), plain.filter(table.column(_KNOWN_GOOD)))


_OURS: Final = frozenset({_ROW, _KNOWN_GOOD})
