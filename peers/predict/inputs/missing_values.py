"""Count missing values in the files of an input, to announce them before the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.inputs.reading import readable_counts
from peers.predict.spec import InputRef

_MAX_FILES: Final = 100
"""The footers of more files would take too long."""
_MAX_VALUES: Final = 20_000_000
"""Without statistics the values are read: these take about 0.2 s."""
_MAX_COLUMNS: Final = 12


def missing_values(source: InputRef, names: Collection[str]) -> dict[str, int]:
    """Return how many values are missing in each of these columns, as far as that is cheap."""
    found: Counter[str] = Counter()
    for file in source.files[:_MAX_FILES] if names else ():
        try:
            found.update(_missing_in(file.path, names))
        except (OSError, pa.ArrowException):
            continue  # reading the chunk reports the error
    return {name: count for name, count in found.items() if count}


def warnings(missing: Mapping[str, int], rows: int) -> Iterator[str]:
    """Yield a warning for each column in which the model does not accept missing values."""
    ordered = sorted(missing.items(), key=lambda pair: -pair[1])
    for name, count in ordered[:_MAX_COLUMNS]:
        yield (
            f"warning: {count:,} of {rows:,} values {'is' if count == 1 else 'are'} missing in the "
            f"column {name!r}: {'this row' if count == 1 else 'these rows'} will be dead; "
            f"--allow-nan sends {'it' if count == 1 else 'them'} to the model"
        )
    if len(ordered) > _MAX_COLUMNS:
        yield f"warning: values are missing in {len(ordered) - _MAX_COLUMNS:,} more columns"


def _missing_in(path: str, names: Collection[str]) -> dict[str, int]:
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        places = {str(metadata.schema.column(n).path): n for n in range(metadata.num_columns)}
        is_small = metadata.num_rows * len(names) <= _MAX_VALUES
        found = {}
        for name in names:
            if name in places:
                nulls = _nulls(metadata, places[name])
                if nulls is None and is_small:
                    nulls = sum(count for _, count in readable_counts(file, name))
                found[name] = nulls or 0
        return found


def _nulls(metadata: pq.FileMetaData, place: int) -> int | None:
    """Return the nulls of a column by the statistics; None without them, as in a snapshot."""
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    statistics = [group.column(place).statistics for group in groups]
    if not all(one is not None and one.has_null_count for one in statistics):
        return None
    nulls: int = sum(one.null_count for one in statistics)
    return nulls
