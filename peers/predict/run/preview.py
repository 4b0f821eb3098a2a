"""`--dry-run`: the columns' types and the first rows as the model gets them; nothing is kept."""

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
from peers.predict.models.frames import argument
from peers.predict.models.signature import Signature
from peers.predict.run.prepare import Trial, try_out
from peers.predict.run.request import Request
from peers.predict.spec import Chunk, Manifest

_ROWS: Final = 5


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would give to the model. `first`: its first rows, as they look in Python."""

    rows: int
    decision: Decision
    first: str
    values: list[dict[str, Any]]

    def lines(self) -> Iterator[str]:
        """Yield what people read."""
        yield f"{self.rows:,} rows. The model gets these columns:"
        yield from lines(self.decision)
        yield f"The first rows, as the model gets them:\n{self.first}"
        yield "Nothing was submitted (--dry-run)."

    def as_json(self) -> dict[str, object]:
        """Return the same for programs."""
        return {
            "rows": self.rows,
            "features": list(self.decision.features),
            "columns": [asdict(column) for column in self.decision.columns],
            "required": list(self.decision.required),
            "warnings": list(self.decision.warnings),
            "first": self.values,
        }


def dry_run(request: Request) -> Preview:
    """Do all that comes before submission, in a folder that is gone afterwards.

    Raises ModelError, InputError or OutputError.
    """
    outputs.check_output(request.output.absolute())
    beside = request.output.absolute().parent
    kept = Path(tempfile.mkdtemp(prefix=f".{request.output.name}.dry-run-", dir=beside))
    try:
        tried = try_out(replace(request, output=kept / request.output.name))
        return _preview(tried)
    finally:
        shutil.rmtree(kept, ignore_errors=True)


def _preview(tried: Trial) -> Preview:
    manifest = tried.plan.manifest
    table = _head(manifest, tried.plan.chunks[0])
    return Preview(
        manifest.input.rows,
        tried.decision,
        _shown(table, tried.signature),
        [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()],
    )


def _head(manifest: Manifest, chunk: Chunk) -> pa.Table:
    part = replace(chunk, rows=min(_ROWS, chunk.rows))
    return manifest.features_of(inputs.read(manifest.input, part, list(manifest.features)).table)


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
