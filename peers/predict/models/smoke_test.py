"""The model on a few rows: whether it can predict at all, before anything is submitted."""

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
from peers.predict.sizes import Measured, measure, sample_rows
from peers.predict.spec import Chunk
from peers.predict.tasks.isolate import as_exception
from peers.predict.tasks.row_checks import unfit_rows
from peers.predict.texts import told

if TYPE_CHECKING:
    from peers.predict.spec import Manifest

_ROWS: Final = 8
"""Of each chunk that rows are taken of, from all over it."""
_KILLED: Final = "it killed the process that tried it, or took too long"
_REMOTE_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Killed:
    """A row whose trial was the end of the process."""

    row: int


@dataclass(frozen=True, slots=True)
class Tried:
    """The columns that the model takes, and those that it returns; None: that is not known yet."""

    features: tuple[str, ...]
    output: outputs.OutputType | None


class _Row(NamedTuple):
    number: int
    table: pa.Table


def try_model(
    model: models.Model,
    manifest: Manifest,
    chunks: Sequence[Chunk],
    killers: Collection[int],
    trying: Callable[[int | None], None],
) -> Tried:
    """Return what the model takes and returns. Raises PredictError if it can predict no row.

    `killers`: rows that have killed a process which tried them; `trying` is told each row
    before, and None after it. A remote model need only not refuse: it may be busy, and peers wait
    for it together.
    """
    pa.array([0])  # the first one imports pandas, which must not count as the model's time
    failed: list[str] = []
    for row in (row for chunk in chunks for row in _fit_rows(manifest, chunk)):
        if row.number in killers:
            failed.append(_KILLED)
            continue
        trying(row.number)
        with traced(manifest.timeout):
            found = _tried(model, manifest, row.table)
        trying(None)
        if isinstance(found, Tried):
            return found
        failed.append(told(found))
    if not failed:
        raise InputError(
            f"none of {sum(chunk.rows for chunk in chunks)} rows from both ends of the input can "
            f"be used; the first: {_why_unfit(manifest, chunks[0])}",
            "Correct the input; --allow-nan lets a model have missing values.",
        )
    raise PredictError(
        f"the model can predict none of the {len(failed)} rows that it was tried with; the first: "
        f"{failed[0]}",
        "Nothing was submitted.",
    )


def measure_model(model: models.Model, manifest: Manifest) -> Measured | None:
    """Measure how many rows a second the model predicts, by the first rows; None: some are bad.

    A model that is waited for is not measured: how long it takes says little of what it computes.
    Raises ModelError if it breaks its contract, such as by the number of results.
    """
    if model.asynchronous:
        return None
    count = min(manifest.input.rows, sample_rows(len(manifest.features)))
    rows = inputs.read(manifest.input, Chunk(0, 0, count), list(manifest.features))
    unfit = unfit_rows(rows, manifest)
    fit = np.setdiff1d(np.arange(count), list(unfit)) if unfit else None
    table = manifest.features_of(rows.table)
    try:
        return measure(model.predict, table if fit is None else table.take(fit))
    except ModelError:
        raise
    except (Exception, SystemExit):  # noqa: BLE001  # bad rows are found in the run, one by one
        return None


def _fit_rows(manifest: Manifest, chunk: Chunk) -> Iterator[_Row]:
    rows = inputs.read(manifest.input, chunk, list(manifest.features))
    unfit = unfit_rows(rows, manifest)
    fit = [index for index in range(rows.table.num_rows) if index not in unfit]
    for index in fit[:: -(-len(fit) // _ROWS)] if fit else []:
        yield _Row(chunk.first + index, manifest.features_of(rows.table.slice(index, 1)))


def _why_unfit(manifest: Manifest, chunk: Chunk) -> str:
    return unfit_rows(inputs.read(manifest.input, chunk, list(manifest.features)), manifest)[0]


def _tried(model: models.Model, manifest: Manifest, row: pa.Table) -> Tried | Exception:
    later = Tried(manifest.features, None)
    try:
        if manifest.model.kind == "http":
            found: Any = asyncio.run(_wait_for(model, row, _REMOTE_PATIENCE))
        elif model.asynchronous:
            found = asyncio.run(_wait_for(model, row, None))
        else:
            found = model.predict(row)
        first = found[0] if isinstance(found, list) else None
        if isinstance(first, Exception):
            return first
        return Tried(manifest.features, outputs.type_of(manifest, found))
    except (models.Busy, models.Away, EndpointError):
        return later  # another time, perhaps
    except (ModelError, OutputError):
        raise  # it is the model, not the row
    except (Reject, Retry) as error:
        raise ModelError(f"the model refuses: {error}", "Nothing was submitted.") from error
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a model may raise anything
        is_remote = manifest.model.kind == "http" and isinstance(error, TimeoutError)
        return later if is_remote else as_exception(error)


async def _wait_for(model: models.Model, row: pa.Table, seconds: float | None) -> Any:
    async with asyncio.timeout(seconds):
        return await model.predict_async(row)
