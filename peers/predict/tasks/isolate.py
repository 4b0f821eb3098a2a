"""A batch that fails is called again by halves, until the rows that spoil it stand alone.

About 2·log₂(n) calls more for one such row, all within the same attempt of the same task. What
kills its process cannot be found out from within: see `journal`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from peers import PeersError, Retry
from peers.predict.errors import EndpointError, RowError
from peers.predict.texts import told

if TYPE_CHECKING:
    from peers.predict.outputs.results import Predictions

Call: TypeAlias = Callable[[Sequence[int]], "Awaitable[Predictions]"]

_PROBES: Final = 4


class Exit(Exception):  # noqa: N818 - a name says what is the matter
    """A model wanted to end its process."""


def as_exception(error: Exception | SystemExit) -> Exception:
    """Return what a model raised, as an outcome of a row."""
    return error if isinstance(error, Exception) else Exit(told(error))


@dataclass(slots=True)
class Isolated:
    """What came of a batch: predictions of some of its rows, in order; why the others have none."""

    good: list[tuple[Sequence[int], Predictions]] = field(default_factory=list)
    bad: dict[int, Exception] = field(default_factory=dict)
    calls: int = 0

    def add(self, indices: Sequence[int], predictions: Predictions) -> None:
        """Take in what a call returned; an exception may stand for a row."""
        if not isinstance(predictions, list) or not any(
            isinstance(one, Exception) for one in predictions
        ):
            self.good.append((indices, predictions))
            return
        pairs = list(zip(indices, predictions, strict=True))
        self.bad |= {int(index): one for index, one in pairs if isinstance(one, Exception)}
        kept = [(index, one) for index, one in pairs if not isinstance(one, Exception)]
        self.good.append(([index for index, _ in kept], [one for _, one in kept]))


async def isolate(
    indices: Sequence[int],
    call: Call,
    on_failure: Callable[[Exception, Sequence[int]], Awaitable[None]] | None = None,
) -> Isolated:
    """Call the model with these rows, and with halves of those for which it raises.

    `on_failure` is told the error of all rows together, and may raise if it is no row's fault. What
    Peers itself raises is raised as it comes, but for RowError and EndpointError: it is said of the
    model, or of the scheduler, not of rows.
    """
    found = Isolated()
    waiting = [indices]
    while waiting:
        part = waiting.pop()
        found.calls += 1
        try:
            predictions = await call(part)
        except (Exception, SystemExit) as error:  # a model may raise anything
            if isinstance(error, PeersError) and not isinstance(error, RowError | EndpointError):
                raise
            fault = as_exception(error)
            if part is indices and on_failure is not None:
                await on_failure(fault, part)
            if len(part) == 1:
                found.bad[int(part[0])] = fault
            else:
                middle = (len(part) + 1) // 2
                waiting += [part[middle:], part[:middle]]
        else:
            found.add(part, predictions)
    return found


async def require_answers(rows: Sequence[int], call: Call, error: Exception) -> None:
    """Raises Retry if `error` is an endpoint's that fails for these rows as well.

    A few of them are tried, from all over; without any, nothing can be said.
    """
    if not isinstance(error, EndpointError) or not len(rows):
        return
    for row in rows[:: -(-len(rows) // _PROBES)]:
        try:
            await call([row])
        except EndpointError:
            continue
        except (Exception, SystemExit) as answer:
            if isinstance(answer, PeersError) and not isinstance(answer, RowError):
                raise
        return  # it answers, if only that the row is bad
    raise Retry(message=str(error)) from error
