"""Each public function refuses an argument of a wrong type by the name of its parameter."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Unpack

import psycopg
import pytest

import peers
from peers import (
    ArgsInvalid,
    BadArgument,
    Client,
    CurrentTask,
    DatabaseUnreachable,
    Task,
    TaskNotFound,
    handlers,
)
from peers.client.bulk_operations import DeadFilter, UnfinishedFilter
from peers.client.kinds import Kind
from peers.client.limit_operations import LimitFields
from peers.client.options import OptionFields
from peers.handlers import Handler
from peers.spans import Span


def _fetch(customer: str) -> str:
    return customer


def _fetch_all(rows: list[dict[str, Any]]) -> list[object]:
    return list(rows)


FETCH: Task[..., Any] = Task(Handler("unit.fetch", _fetch))
WRONG = [
    FETCH, 3, -1, True, "text", None, {}, {"customer": 3}, 2.5, float("nan"), float("inf"),
    object(), datetime(2026, 1, 1), ["text"], [None], b"text",  # noqa: DTZ001 - it is wrong
]  # fmt: skip
FITS: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "bool": (bool,), "Kind": (str, Task), "None": (type(None),),
    "Span": (int, float), "Mapping": (dict,), "Iterable": (list,), "Sequence": (list,),
    "Task": (Task,),
}  # fmt: skip
"""The types of the values that may be right, by a word of an annotation; no value fits others."""
RIGHT: dict[str, Any] = {
    "name": "nightly", "kind": "unit.other", "args": {}, "id": 1, "ids": 1, "graph": 1,
    "queue": "default", "from_at": datetime.fromisoformat("2026-01-01T00:00+00:00"),
    "task": "unit.other", "seconds": 1, "done": 1, "in_": 1, "depends_on": 1,
}  # fmt: skip


class _Scheduler:
    def call(self, _execution_id: int, _verb: str, _payload: object) -> Any:
        return 1

    def tell(self, _execution_id: int, _verb: str, _payload: object) -> None:
        pass

    def limit(self, _execution_id: int, seconds: float | None) -> None:
        assert seconds is None or type(seconds) is float


def _submit(
    task: Kind, args: Mapping[str, object] | None = None, **options: Unpack[OptionFields]
) -> object:
    """Submit with the types of a kind by its name, which the overloads of `submit` declare."""
    return peers.submit(task, args, **options)


def _add(kind: Kind, args: Mapping[str, object] | None, **options: Unpack[OptionFields]) -> object:
    return peers.graph().add(kind, args, **options)


def _options(**options: Unpack[OptionFields]) -> object:
    return FETCH.options(**options)


def _after(depends_on: int | Iterable[int], on_parent_failure: str | None = None) -> object:
    return FETCH.after(depends_on, on_parent_failure=on_parent_failure)


def _client_result(
    id: int, timeout: Span | None = None, task: Task[..., Any] | None = None
) -> object:
    with Client() as client:
        return client.result(id, timeout, task=task)  # type: ignore[arg-type]


def _client(
    database_url: str | None = None, max_connections: int = 10, application_name: str = "test"
) -> object:
    return Client(database_url, max_connections=max_connections, application_name=application_name)


def _retry(in_: Span | None = None) -> object:
    return peers.Retry(in_)


def _snooze(in_: Span | None) -> object:
    return peers.Snooze(in_)  # type: ignore[arg-type]


def _declare(**policy: Any) -> object:
    return peers.task(**policy)(_fetch_all if policy.get("batch_size") else _fetch)  # type: ignore[no-untyped-call]


_declare.__signature__ = inspect.signature(peers.task)  # type: ignore[attr-defined]

_running = CurrentTask(1, "unit.fetch", 1, "token", None, 1, _Scheduler())
_SPECIAL = ("submit", "task", "current_task", "current_batch")
_FUNCTIONS: list[Callable[..., Any]] = [
    _submit, _add, _options, _after, _client_result, _declare, _client, peers.Schedule,
    _running.kill_after, _running.cooldown, _running.cooldown_async, _running.cooldown_left,
    _running.cooldown_left_async, _retry, _snooze,
    *(
        function
        for name in peers.__all__
        if inspect.isfunction(function := getattr(peers, name))
        and re.sub("_(async|in)$", "", name) not in _SPECIAL
    ),
]  # fmt: skip

FIELDS: Final = (OptionFields, LimitFields, DeadFilter, UnfinishedFilter)
"""The keywords that a function takes as `**fields`."""


def _parameters(function: Callable[..., Any]) -> dict[str, str]:
    """Return the annotations of the parameters, those of the options among them."""
    found: dict[str, str] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = str(parameter.annotation)
        if parameter.kind is parameter.VAR_KEYWORD:
            fields: Any = next(each for each in FIELDS if each.__name__ in annotation)
            for field, hint in fields.__annotations__.items():
                name_of_type = getattr(
                    hint, "__forward_arg__", getattr(hint, "__name__", str(hint))
                )
                found[field] = f"{name_of_type} | None"
        else:
            found[name] = "target" if name == "target" else annotation
    return found


def _may_fit(annotation: str, value: object) -> bool:
    words = re.findall(r"\w+", re.sub(r"\[.*?\]+", "", annotation))
    types = tuple(each for word in words for each in FITS.get(word, ()))
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types)


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    signature = inspect.signature(function)
    positional = [
        arguments.pop(name)
        for name, each in signature.parameters.items()
        if each.kind is each.POSITIONAL_ONLY and name in arguments
    ]
    outcome = function(*positional, **arguments)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)


@pytest.fixture(autouse=True)
def _no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is not refused find no database."""

    def connect(*_: object, **__: object) -> None:
        raise DatabaseUnreachable("there is none")

    monkeypatch.setattr("peers.client.client.connect", connect)
    monkeypatch.setenv("PEERS_DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    monkeypatch.setattr(handlers, "_registry", {"unit.fetch": FETCH.handler})


def _needed(function: Callable[..., Any]) -> dict[str, Any]:
    """Return right arguments for the parameters that have no default."""
    signature = inspect.signature(function)
    needed = {
        name: RIGHT[name]
        for name, each in signature.parameters.items()
        if each.default is each.empty and name in RIGHT
    }
    if "target" in signature.parameters and function is not peers.graph:
        needed["target"] = object.__new__(psycopg.Connection)
    if "submit_many" in function.__name__:
        needed["args"] = [{}]
    if any(verb in function.__name__ for verb in ("retry_dead", "discard_dead", "cancel_tasks")):
        needed["kind"] = "unit.fetch"
    if "add_schedule" in function.__name__ or function is peers.Schedule:
        needed["every"] = "1h"
    return needed


def _find_fault(
    function: Callable[..., Any], arguments: dict[str, Any], parameter: str, *, fits: bool
) -> str | None:
    """Return what is wrong with the answer to these arguments."""
    try:
        _call(function, dict(arguments))
    except (BadArgument, ArgsInvalid, ValueError) as error:
        if fits or re.search(rf"\b{parameter}\b", str(error)):
            return None
        return f"is not named: {error}"
    except (DatabaseUnreachable, TaskNotFound):
        pass
    except Exception as error:  # noqa: BLE001 - the test reports all faults together
        return f"{type(error).__name__}: {error}"
    return None if fits else "was accepted"


@pytest.mark.parametrize("function", _FUNCTIONS, ids=lambda each: each.__qualname__)
def test_wrong_types_are_refused_by_the_name_of_the_parameter(function: Callable[..., Any]) -> None:
    """The error also has the class that callers catch."""
    needed, faults = _needed(function), []
    in_transaction = "target" in inspect.signature(function).parameters
    for parameter, annotation in _parameters(function).items():
        for value in WRONG:
            fits = _may_fit(annotation, value)
            if in_transaction and (fits or value is None):
                continue  # it would use the transaction; the target of a graph may be None
            fault = _find_fault(function, {**needed, parameter: value}, parameter, fits=fits)
            if fault is not None:
                faults.append(f"{parameter}={value!r} {fault}")
    assert not faults, "\n" + "\n".join(faults)


def test_a_dict_for_a_task_names_the_keywords() -> None:
    """A kind by its name takes a dict, so callers try it with a task too."""
    for call in (peers.submit, peers.graph().add):
        with pytest.raises(ArgsInvalid, match=r"args\.customer.*as \*\*args"):
            call(FETCH, {"customer": "a"})


def test_one_dict_for_many_tasks_asks_for_a_list_and_a_bad_element_has_its_index() -> None:
    """A batch may have thousands of elements."""
    with pytest.raises(BadArgument, match="args must be a list of dicts, one for each task"):
        peers.submit_many(FETCH, {"customer": "a"})  # type: ignore[dict-item]
    for kind in (FETCH, "unit.other"):
        with pytest.raises(ArgsInvalid, match=r"args\[1\] must be a JSON object"):
            peers.submit_many(kind, [{"customer": "a"}, 3])  # type: ignore[list-item]
    with pytest.raises(ArgsInvalid, match=r"args\[1\].*customer"):
        peers.submit_many(FETCH, [{"customer": "a"}, {"customer": 3}])


def test_durations_of_every_form_reach_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker gets seconds."""
    limits: list[object] = []
    monkeypatch.setattr(_Scheduler, "limit", lambda _self, _id, seconds: limits.append(seconds))
    for seconds in (5400, "1h30m", timedelta(minutes=90), None):
        _running.kill_after(seconds)
    assert limits == [5400.0, 5400.0, 5400.0, None]
    for wrong in (0, -1, "soon", True):
        with pytest.raises(ValueError, match="seconds must be"):
            _running.kill_after(wrong)


def test_swapped_arguments_of_a_schedule_name_their_order() -> None:
    """The kind comes first elsewhere."""
    with pytest.raises(peers.BadSchedule, match=r"name must be a string.*The name comes first"):
        peers.add_schedule(FETCH, "o3", every="1h")  # type: ignore[arg-type]


def test_a_kind_of_a_graph_takes_one_dict() -> None:
    """Parents are an option."""
    with pytest.raises(peers.BadTask, match="args of a kind must be one dict, not 2 values"):
        peers.graph().add("unit.other", {}, [1])  # type: ignore[call-overload]
