"""The model on the first rows: whether it can predict at all, before anything is submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from peers import Reject, Retry
from peers.predict import inputs, models
from peers.predict.errors import InputError, ModelError, PredictError
from peers.predict.fitness import unfit_rows
from peers.predict.overrun import ended_after

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.spec import Chunk, Manifest

_ROWS: Final = 16
_KILLED: Final = "it killed the process that tried it, or took too long"


def try_model(
    model: models.Model,
    manifest: Manifest,
    chunk: Chunk,
    killers: Collection[int],
    trying: Callable[[int | None], None],
) -> None:
    """Raises PredictError if not one of the first rows of the first chunk can be predicted.

    `killers`: rows that have killed a process which tried them; `trying` is told each row
    before, and None after it.
    """
    few = replace(chunk, rows=min(chunk.rows, _ROWS))
    is_sliced = manifest.input.format == "parquet"
    rows = inputs.read(manifest.input, few if is_sliced else chunk, list(manifest.features))
    first = range(min(rows.table.num_rows, _ROWS))
    unfit = unfit_rows(rows, manifest)
    if unfit.keys() >= set(first):
        raise InputError(
            f"none of the first {len(first)} rows can be used; the first: {unfit[0]}",
            "Correct the input; --allow-nan lets a model have missing values.",
        )
    failed = [_KILLED for row in first if row in killers]
    for row in first:
        if row not in unfit and row not in killers:
            trying(row)
            with ended_after(manifest.timeout):
                error = _error_of(model, rows.table.slice(row, 1))
            trying(None)
            if error is None:
                return
            failed.append(f"{type(error).__name__}: {error}")
    raise PredictError(
        f"the model can predict none of the first {len(failed)} rows; the first: {failed[0]}",
        "Nothing was submitted.",
    )


def _error_of(model: models.Model, row: pa.Table) -> Exception | None:
    try:
        found: Any = (
            asyncio.run(_wait_for(model, row)) if model.asynchronous else model.predict(row)
        )
    except ModelError:
        raise  # it is the model, not the row
    except (Reject, Retry) as error:
        raise ModelError(f"the model refuses: {error}", "Nothing was submitted.") from error
    except Exception as error:  # noqa: BLE001  # a model may raise anything
        return error
    first = found[0]
    return first if isinstance(first, Exception) else None


async def _wait_for(model: models.Model, row: pa.Table) -> Any:
    return await model.predict_async(row)
