"""The options of a unique key: their bounds, and which of them fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.errors import BadTask
from peers.spans import format_span, seconds_of
from peers.types import OnDuplicate, UniqueWhile

if TYPE_CHECKING:
    from peers.client.options import Options

_UNIQUE_OPTIONS: Final = ("unique_while", "on_duplicate", "wait", "max_wait")


def require_known_on_duplicate(options: Options) -> None:
    """Refuse an on_duplicate that does not exist. Raises BadTask."""
    on_duplicate = options.on_duplicate
    if on_duplicate is not None and on_duplicate not in list(OnDuplicate):
        raise BadTask(f'on_duplicate must be "keep", "replace" or "debounce", not "{on_duplicate}"')


def require_fitting(options: Options, *, has_key: bool) -> None:
    """Refuse options of a unique key that do not fit together. Raises BadTask.

    This is checked at the submission, because `Task.options` may set them one by one.
    """
    given = [name for name in _UNIQUE_OPTIONS if getattr(options, name) is not None]
    if given and not has_key:
        raise BadTask(f"{given[0]} needs a unique_key", "Pass the key that must be unique.")
    if options.on_duplicate != OnDuplicate.DEBOUNCE:
        if options.wait is not None or options.max_wait is not None:
            raise BadTask('wait and max_wait need on_duplicate="debounce"')
    else:
        _require_debounce(options)
    if options.depends_on and options.on_duplicate not in (None, OnDuplicate.KEEP):
        raise BadTask(
            'on_duplicate must be "keep" for a task with parents',
            "A task that waits already does not get the parents of another submission.",
        )


def _require_debounce(options: Options) -> None:
    if options.unique_while not in (None, UniqueWhile.WAITING):
        raise BadTask(
            'on_duplicate="debounce" needs unique_while="waiting"',
            "With another one, a submission that comes while the task runs would be lost.",
        )
    if options.wait is None:
        raise BadTask(
            'on_duplicate="debounce" needs a wait',
            'For example, wait="5s".',
        )
    if options.scheduled_at is not None or options.delay is not None:
        raise BadTask(
            'on_duplicate="debounce" sets the time of the start itself',
            'Leave scheduled_at and delay out, or use "replace".',
        )
    if options.max_wait is not None and seconds_of(options.max_wait) < seconds_of(options.wait):
        raise BadTask(
            f"max_wait must be at least wait ({format_span(seconds_of(options.wait))}), "
            f"not {format_span(seconds_of(options.max_wait))}"
        )
