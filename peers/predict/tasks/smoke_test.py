"""Call the model with a few rows before anything is submitted, to see that it can predict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from peers import Reject, Retry
from peers.predict import inputs, models, outputs
from peers.predict.errors import EndpointError, InputError, ModelError, OutputError, PredictError
from peers.predict.models.time_limit import traced
from peers.predict.spec import Chunk
from peers.predict.tasks.isolate import as_exception
from peers.predict.tasks.measure import Measurement, measure, sample_rows
from peers.predict.tasks.row_checks import invalid_rows
from peers.predict.texts import error_text

if TYPE_CHECKING:
    from peers.predict.spec import Manifest

_ROWS_PER_CHUNK: Final = 8
"""Evenly spaced in the chunk."""
_CRASHED: Final = "it killed the process that ran the smoke test, or took too long"
_REMOTE_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class SmokeTested:
    """The columns that the model takes, and those that it returns; None: not known yet."""

    features: tuple[str, ...]
    output: outputs.OutputType | None


class _Row(NamedTuple):
    number: int
    table: pa.Table


def smoke_test(
    model: models.Model,
    manifest: Manifest,
    chunks: Sequence[Chunk],
    crashed: Collection[int],
    on_row: Callable[[int | None], None],
) -> SmokeTested:
    """Return what the model takes and returns. Raises PredictError if it can predict no row.

    `crashed`: rows that have killed a process in an earlier smoke test. `on_row` gets the number of
    each row before its call, and None after it. A remote model may be busy, since all peers back
    off from it together; it passes unless it refuses the rows.
    """
    pa.array([0])  # the first array imports pandas, which must not count as the model's time
    failed: list[str] = []
    for row in (row for chunk in chunks for row in _valid_rows(manifest, chunk)):
        if row.number in crashed:
            failed.append(_CRASHED)
            continue
        on_row(row.number)
        with traced(manifest.timeout):
            found = _predict_row(model, manifest, row.table)
        on_row(None)
        if isinstance(found, SmokeTested):
            return found
        failed.append(error_text(found))
    if not failed:
        raise InputError(
            f"none of {sum(chunk.rows for chunk in chunks)} rows from both ends of the input can "
            f"be used; the first: {_why_invalid(manifest, chunks[0])}",
            "Correct the input; --allow-nan sends missing values to the model.",
        )
    raise PredictError(
        f"the model failed for all {len(failed)} rows of the smoke test; the first error: "
        f"{failed[0]}",
        "Nothing was submitted.",
    )


def measure_model(model: models.Model, manifest: Manifest) -> Measurement | None:
    """Measure how many rows a second the model predicts; None if some of the rows are bad.

    A remote model is not measured: how long it takes says little about what it computes. Raises
    ModelError if the model breaks its contract, such as by the number of results.
    """
    if model.asynchronous:
        return None
    count = min(manifest.input.rows, sample_rows(len(manifest.features)))
    rows = inputs.read(manifest.input, Chunk(0, 0, count), list(manifest.features))
    invalid = invalid_rows(rows, manifest)
    valid = np.setdiff1d(np.arange(count), list(invalid)) if invalid else None
    table = manifest.features_of(rows.table)
    try:
        return measure(model.predict, table if valid is None else table.take(valid))
    except ModelError:
        raise
    except (Exception, SystemExit):  # noqa: BLE001  # the run finds the bad rows
        return None


def _valid_rows(manifest: Manifest, chunk: Chunk) -> Iterator[_Row]:
    rows = inputs.read(manifest.input, chunk, list(manifest.features))
    invalid = invalid_rows(rows, manifest)
    valid = [index for index in range(rows.table.num_rows) if index not in invalid]
    for index in valid[:: -(-len(valid) // _ROWS_PER_CHUNK)] if valid else []:
        yield _Row(chunk.first + index, manifest.features_of(rows.table.slice(index, 1)))


def _why_invalid(manifest: Manifest, chunk: Chunk) -> str:
    rows = inputs.read(manifest.input, chunk, list(manifest.features))
    return invalid_rows(rows, manifest)[0]


def _predict_row(model: models.Model, manifest: Manifest, row: pa.Table) -> SmokeTested | Exception:
    unknown = SmokeTested(manifest.features, None)
    try:
        if manifest.model.kind == "http":
            found: Any = asyncio.run(_predict_async(model, row, _REMOTE_TIMEOUT))
        elif model.asynchronous:
            found = asyncio.run(_predict_async(model, row, None))
        else:
            found = model.predict(row)
        first = found[0] if isinstance(found, list) else None
        if isinstance(first, Exception):
            return first
        return SmokeTested(manifest.features, outputs.type_of(manifest, found))
    except (models.Busy, models.Unavailable, EndpointError):
        return unknown  # it may work later
    except (ModelError, OutputError):
        raise  # the model is to blame, not the row
    except (Reject, Retry) as error:
        raise ModelError(f"the model refuses: {error}", "Nothing was submitted.") from error
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a model may raise anything
        is_remote = manifest.model.kind == "http" and isinstance(error, TimeoutError)
        return unknown if is_remote else as_exception(error)


async def _predict_async(model: models.Model, row: pa.Table, seconds: float | None) -> Any:
    async with asyncio.timeout(seconds):
        return await model.predict_async(row)
