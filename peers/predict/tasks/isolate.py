"""Bisect a batch that fails until the failing rows are isolated.

It costs about 2·log₂(n) further calls for one failing row, all within the same attempt of the same
task. A row that kills its process cannot be found from inside the process: see `batch_marker`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from peers import PeersError, Retry
from peers.bisect import halves
from peers.predict.errors import EndpointError, RowError
from peers.predict.texts import error_text

if TYPE_CHECKING:
    from peers.predict.predictions import Predictions

Call: TypeAlias = Callable[[Sequence[int]], "Awaitable[Predictions]"]

_PROBES: Final = 4


class ModelExit(Exception):  # noqa: N818 - the name says what happened
    """The model tried to exit its process."""


def as_exception(error: Exception | SystemExit) -> Exception:
    """Return what a model raised, as the outcome of a row."""
    return error if isinstance(error, Exception) else ModelExit(error_text(error))


@dataclass(slots=True)
class BatchOutcome:
    """The predictions of a batch's rows, in order, and the errors of the rows without one."""

    predictions: list[tuple[Sequence[int], Predictions]] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)
    calls: int = 0

    def add(self, indices: Sequence[int], predictions: Predictions) -> None:
        """Add what a call returned. An exception in the list is the error of its row."""
        if not isinstance(predictions, list) or not any(
            isinstance(one, Exception) for one in predictions
        ):
            self.predictions.append((indices, predictions))
            return
        pairs = list(zip(indices, predictions, strict=True))
        self.errors |= {int(index): one for index, one in pairs if isinstance(one, Exception)}
        kept = [(index, one) for index, one in pairs if not isinstance(one, Exception)]
        self.predictions.append(([index for index, _ in kept], [one for _, one in kept]))


async def isolate(
    indices: Sequence[int],
    call: Call,
    on_failure: Callable[[Exception, Sequence[int]], Awaitable[None]] | None = None,
) -> BatchOutcome:
    """Call the model with these rows; bisect the rows for which it raises.

    `on_failure` gets the error of the whole batch. It may raise if no row is to blame. Errors of
    Peers itself are raised unchanged, except RowError and EndpointError: they concern the model or
    the scheduler, not rows.
    """
    found = BatchOutcome()
    waiting = [indices]
    while waiting:
        part = waiting.pop()
        found.calls += 1
        try:
            predictions = await call(part)
        except (Exception, SystemExit) as error:  # a model may raise anything
            if isinstance(error, PeersError) and not isinstance(error, RowError | EndpointError):
                raise
            raised = as_exception(error)
            if part is indices and on_failure is not None:
                await on_failure(raised, part)
            if len(part) == 1:
                found.errors[int(part[0])] = raised
            else:
                waiting += reversed(halves(part))  # the first half comes first
        else:
            found.add(part, predictions)
    return found


async def retry_if_endpoint_fails(rows: Sequence[int], call: Call, error: Exception) -> None:
    """Raise Retry if `error` is an endpoint's and the endpoint fails for these rows as well.

    It tries a few rows, evenly spaced. Without rows it returns.
    """
    if not isinstance(error, EndpointError) or not len(rows):
        return
    for row in rows[:: -(-len(rows) // _PROBES)]:
        try:
            await call([row])
        except EndpointError:
            continue
        except (Exception, SystemExit) as raised:
            if isinstance(raised, PeersError) and not isinstance(raised, RowError):
                raise
        return  # the endpoint works, even if it says that this row is bad
    raise Retry(message=str(error)) from error
