"""Assert what was submitted, and show what comes near when it was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from peers.client import operations
from peers.client.kinds import Kind, kind_of
from peers.client.submission import plain_json
from peers.client.targets import is_async_target
from peers.client.transport import perform_in, perform_in_async
from peers.errors import BadArgument
from peers.handlers import registry
from peers.testing import active
from peers.testing.databases import Database
from peers.testing.inline import TaskRun
from peers.testing.places import connection_of
from peers.testing.requests import Submission

if TYPE_CHECKING:
    from peers.client.records import TaskRecord
    from peers.client.statements import Request
    from peers.client.targets import AsyncTarget
    from peers.testing.places import Place

    Task = TaskRecord | Submission

_PAGE: Final = 1000
_SHOWN: Final = 5
_VALUE_MAX: Final = 120
_MISSING: Final = "missing"


def submitted(
    kind: Kind | None = None,
    *,
    within: Place | None = None,
    **wanted: object,
) -> list[TaskRecord]:
    """Return the tasks of this kind, or of all kinds, in the order of their ids.

    within: a Database, a URL, or a session of the application, which also sees what it has not
    committed. None: the database of the fixture `peers_database`, or that of the default client.
    wanted: as for `assert_submitted`.
    """
    tasks = _all_tasks(within, kind)
    return [task for task in tasks if not _differences(task, _checked(wanted))]


async def submitted_async(
    kind: Kind | None = None, *, within: AsyncTarget, **wanted: object
) -> list[TaskRecord]:
    """Do the same as `submitted`, in an async session or connection."""
    tasks = await _all_tasks_async(within, kind)
    return [task for task in tasks if not _differences(task, _checked(wanted))]


def assert_submitted(
    kind: Kind,
    args: Mapping[str, object] | None = None,
    *,
    count: int | None = None,
    within: Place | TaskRun[..., Any] | None = None,
    **wanted: object,
) -> list[Any]:
    """Assert that tasks of this kind were submitted, and return them in the order of their ids.

    args: the args that they have, among others. count: how many there are; None: at least one.
    within: as for `submitted`, or a TaskRun, whose handler has submitted them. wanted: any field of
    a TaskRecord, such as queue="mail", priority=10, scheduled_at=…, state="ready"; metadata is
    compared like args.
    """
    wanted = _checked(wanted, args)
    if isinstance(within, TaskRun):
        everything: Iterable[Any] = within.submitted
    else:
        everything = _all_tasks(within, None)
    return _matching(kind_of(kind), wanted, count, list(everything))


async def assert_submitted_async(
    kind: Kind,
    args: Mapping[str, object] | None = None,
    *,
    within: AsyncTarget,
    count: int | None = None,
    **wanted: object,
) -> list[TaskRecord]:
    """Do the same as `assert_submitted`, in an async session or connection."""
    everything = await _all_tasks_async(within, None)
    return _matching(kind_of(kind), _checked(wanted, args), count, everything)


def assert_not_submitted(
    kind: Kind,
    args: Mapping[str, object] | None = None,
    *,
    within: Place | TaskRun[..., Any] | None = None,
    **wanted: object,
) -> None:
    """Assert that no such task was submitted. The arguments are those of `assert_submitted`."""
    assert_submitted(kind, args, count=0, within=within, **wanted)


# ---------------------------------------------------------------------------------------- reading


def _all_tasks(within: Place | None, kind: Kind | None) -> list[TaskRecord]:
    before, found = None, []
    while page := _perform(within, operations.find(kind=kind, limit=_PAGE, before=before)):
        found += page
        before = page[-1].id
        if len(page) < _PAGE:
            break
    return found[::-1]


async def _all_tasks_async(within: AsyncTarget, kind: Kind | None) -> list[TaskRecord]:
    if isinstance(within, Database | str) or not is_async_target(within):
        raise BadArgument(
            "within must be an async session or connection", "Without one, use the sync function."
        )
    before, found = None, []
    while page := await perform_in_async(
        within, operations.find(kind=kind, limit=_PAGE, before=before)
    ):
        found += page
        before = page[-1].id
        if len(page) < _PAGE:
            break
    return found[::-1]


def _perform(within: Place | None, request: Request[list[TaskRecord]]) -> list[TaskRecord]:
    place = active.database() if within is None else within
    if place is None:
        from peers.client.default import default_client

        return default_client().perform(request)
    if isinstance(place, Database):
        return place.client.perform(request)
    if isinstance(place, str):
        with connection_of(place) as connection:
            return perform_in(connection, request)
    if is_async_target(place):
        raise BadArgument("an async session needs the function whose name ends with _async")
    return perform_in(place, request)


# -------------------------------------------------------------------------------------- comparing


def _checked(
    wanted: Mapping[str, object], args: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return what a task must have, with args and metadata as JSON. Raises BadArgument."""
    from peers.client.records import TaskRecord

    unknown = [name for name in wanted if name not in TaskRecord.__dataclass_fields__]
    if unknown:
        near = get_close_matches(unknown[0], TaskRecord.__dataclass_fields__, 1)
        hint = f"Did you mean {near[0]}?" if near else "See TaskRecord for the fields of a task."
        raise BadArgument(f"a task has no field {unknown[0]!r}", hint)
    found = dict(wanted)
    if args is not None:
        found["args"] = args
    for name in ("args", "metadata"):
        given = found.get(name)
        if isinstance(given, Mapping):
            found[name] = plain_json(name, given)
    return found


def _differences(task: Task, wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what a task has and what it should have, by name."""
    found = {}
    for name, value in wanted.items():
        actual = _field(task, name)
        if name in ("args", "metadata") and isinstance(value, Mapping):
            for key, each in value.items():
                has = (actual or {}).get(key, _MISSING)
                if has != each:
                    found[f"{name}[{key!r}]"] = (has, each)
        elif actual != value:
            found[name] = (actual, value)
    return found


def _field(task: Task, name: str) -> Any:
    if isinstance(task, Submission) and name not in ("id", "kind", "args"):
        return task.options.get(name)
    return getattr(task, name)


def _matching(
    kind: str, wanted: Mapping[str, Any], count: int | None, everything: list[Any]
) -> list[Any]:
    of_kind = [task for task in everything if task.kind == kind]
    found = [task for task in of_kind if not _differences(task, wanted)]
    if len(found) == count or (count is None and found):
        return found
    raise AssertionError(_message(kind, wanted, count, found, everything))


def _message(
    kind: str, wanted: Mapping[str, Any], count: int | None, found: list[Any], everything: list[Any]
) -> str:
    described = "".join(f", {name} {_short(value)}" for name, value in wanted.items())
    expected = "at least one task" if count is None else _count_of(count)
    lines = [f"expected {expected} of kind {kind!r}{described}; submitted: {len(found) or 'none'}"]
    if found:
        lines += _listing("these match:", found, wanted)
    of_kind = [task for task in everything if task.kind == kind and task not in found]
    if of_kind and count != 0:
        nearest = sorted(of_kind, key=lambda task: len(_differences(task, wanted)))
        lines += _listing("of the same kind, nearest first:", nearest, wanted)
    if not of_kind and not found:
        lines += _other_kinds(kind, everything)
    return "\n".join(lines)


def _count_of(count: int) -> str:
    return f"{count or 'no'} {'task' if count == 1 else 'tasks'}"


def _listing(title: str, tasks: list[Any], wanted: Mapping[str, Any]) -> list[str]:
    lines = [title]
    for task in tasks[:_SHOWN]:
        lines.append(f"  task {int(task.id)}: args {_short(task.args)}")
        lines += [
            f"    {name} is {_short(has)}, not {_short(should)}"
            for name, (has, should) in _differences(task, wanted).items()
        ]
    if len(tasks) > _SHOWN:
        lines.append(f"  … and {len(tasks) - _SHOWN} more")
    return lines


def _other_kinds(kind: str, everything: list[Any]) -> list[str]:
    if not everything:
        return ["no task of any kind was submitted"]
    counts = Counter(task.kind for task in everything)
    lines = [
        "other kinds: " + ", ".join(f"{name} ({number})" for name, number in sorted(counts.items()))
    ]
    near = get_close_matches(kind, counts, 1)
    if near and kind not in registry():  # a kind that has a handler is not misspelt
        lines.append(f"did you mean {near[0]!r}?")
    return lines


def _short(value: object) -> str:
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 1] + "…"
