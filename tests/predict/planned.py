"""An input that is looked through and cut into chunks, as a run does it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from peers.predict import inputs
from peers.predict.spec import Chunk, InputRef


def planned(
    path: Path,
    size: int,
    columns: Sequence[str] | None = None,
    id_column: str | None = None,
    types: Mapping[str, pa.DataType] | None = None,
) -> tuple[InputRef, list[Chunk]]:
    """Return the input and its chunks of `size` rows; columns not in `types` have their own."""
    beside = path.parent if path.parent.is_dir() else None  # a pattern has no folder
    kept = Path(tempfile.mkdtemp(prefix="run-", dir=beside))
    with inputs.survey(inputs.Source(str(path), id_column=id_column), kept) as survey:
        fields = [
            pa.field(field.name, types[field.name]) if types and field.name in types else field
            for field in survey.schema
            if columns is None or field.name in columns
        ]
        source = survey.with_types(pa.schema(fields), kept)
    return source, inputs.chunks(source, size)
