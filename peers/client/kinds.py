"""The kind of a task, given by its name or as the function under `@task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from peers.client.options import Options, options_from
from peers.errors import BadArgument

if TYPE_CHECKING:
    from peers.client.task import Task

Kind: TypeAlias = "str | Task[..., Any]"
"""What every function takes that is about a kind."""


def kind_of(kind: Kind) -> str:
    """Return the name of a kind. Raises BadArgument."""
    if isinstance(kind, str):
        return kind
    return _task_of(kind).kind


def options_for(kind: Kind, given: Mapping[str, Any]) -> Options:
    """Return the options of a submission: those given, otherwise those that the task has bound.

    Raises BadTask, BadArgument.
    """
    return options_from(given, None if isinstance(kind, str) else _task_of(kind).bound)


def _task_of(kind: object) -> Task[..., Any]:
    from peers.client.task import Task  # that module imports this one

    if isinstance(kind, Task):
        return kind
    raise BadArgument(
        f"kind must be a string or a task, not {kind!r}",
        'Pass the name of the kind, such as "thumbs.make", or the function under @task.',
    )
