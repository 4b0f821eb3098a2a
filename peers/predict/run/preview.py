"""Show the types of the columns and the first rows as the model gets them (--dry-run)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from peers.predict import inputs, outputs
from peers.predict.inputs.column_types import Decision
from peers.predict.inputs.decisions import lines
from peers.predict.inputs.missing_values import warnings
from peers.predict.models.frames import argument
from peers.predict.run.prepare import TestedPlan, make_tested_plan
from peers.predict.run.request import Request
from peers.predict.signature import Signature
from peers.predict.spec import Chunk, Manifest

_ROWS: Final = 5
_READ: Final = 100
"""The model does not get the rows among these that cannot be read."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would pass to the model. `first`: its first rows, as Python shows them."""

    rows: int
    decision: Decision
    missing: dict[str, int]
    first: str
    values: list[dict[str, Any]]

    def lines(self) -> Iterator[str]:
        """Yield the lines for people."""
        yield f"{self.rows:,} rows. Columns for the model:"
        yield from lines(self.decision)
        yield from warnings(self.missing, self.rows)
        yield f"The first rows, as the model gets them:\n{self.first}"
        yield "Nothing was submitted (--dry-run)."

    def as_json(self) -> dict[str, object]:
        """Return the values for programs."""
        return {
            "rows": self.rows,
            "features": list(self.decision.features),
            "columns": [asdict(column) for column in self.decision.columns],
            "required": list(self.decision.required),
            "warnings": list(self.decision.warnings),
            "missing": self.missing,
            "first": self.values,
        }


def dry_run(request: Request) -> Preview:
    """Do everything that precedes submission, in a temporary folder.

    Raises ModelError, InputError or OutputError.
    """
    outputs.check_output(request.output.absolute())
    beside = request.output.absolute().parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{request.output.name}.dry-run-", dir=beside))
    try:
        tested = make_tested_plan(replace(request, output=temporary / request.output.name))
        return _preview(tested)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _preview(tested: TestedPlan) -> Preview:
    manifest = tested.plan.manifest
    table = _head(manifest, tested.plan.chunks[0])
    return Preview(
        manifest.input.rows,
        tested.decision,
        tested.missing,
        _shown(table, tested.signature),
        [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()],
    )


def _head(manifest: Manifest, chunk: Chunk) -> pa.Table:
    part = replace(chunk, rows=min(_READ, chunk.rows))
    read = inputs.read(manifest.input, part, list(manifest.features))
    readable = [index for index in range(part.rows) if index not in read.bad][:_ROWS]
    return manifest.features_of(read.table.take(pa.array(readable, pa.int64())))


def _shown(table: pa.Table, signature: Signature) -> str:
    given = argument(table, signature)
    if signature.form == "rows":
        return "\n".join(map(repr, given))
    if signature.form == "frame":
        dtypes = ", ".join(f"{name}: {dtype}" for name, dtype in given.dtypes.items())
        return f"{given.to_string(max_cols=20)}\n({dtypes})"
    return repr(given)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else _number(value)


def _number(value: Any) -> Any:
    is_number = isinstance(value, float) and value - value == 0
    return value if is_number else str(value)
