"""Errors of a command name its options and other commands, not parameters and SQL functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from peers import cli, errors
from peers.cli.wording import in_words_of_the_shell
from peers.client import operations
from peers.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Callable


def said(error: errors.PeersError, *words: str) -> tuple[str, str | None]:
    """Return the message and the hint of an error that this command prints."""
    args = cli.parser_for([*words]).parse_args(words)
    in_words_of_the_shell(error, args)
    return error.message, error.hint


def refusal(build: Callable[[], object]) -> errors.PeersError:
    """Return the error that this raises."""
    with pytest.raises(errors.PeersError) as caught:
        build()
    return caught.value


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"wait": 5}, "--wait needs --unique-key", "Pass the key that must be unique."),
        ({"unique_key": "k", "wait": 5},
         "--wait and --max-wait need --on-duplicate debounce", None),
        ({"unique_key": "k", "on_duplicate": "debounce"},
         "--on-duplicate debounce needs --wait", "For example, --wait 5s."),
        ({"unique_key": "k", "on_duplicate": "debounce", "wait": 5, "delay": 3},
         "--on-duplicate debounce sets the time of the start itself",
         'Leave --at and --in out, or use "replace".'),
        ({"timeout": "40d"}, "--timeout must be 1ms to 30d, not '40d'", None),
        ({"queue": ""}, "--queue must be 1 to 200 characters, not 0", None),
        ({"priority": 10**6}, "--priority must be -32768 to 32767, not 1000000", None),
        ({"delay": -1}, "--in must be 0s to 36500d, not -1s", None),
        ({"unique_key": "k", "on_duplicate": "debounce", "wait": "1h30m", "max_wait": 3600},
         "--max-wait must be at least --wait (1h30m), not 1h", None),
    ],
)  # fmt: skip
def test_options_of_a_submission(options: dict[str, Any], message: str, hint: str | None) -> None:
    """Their parameters have other names, or "_" for "-"."""
    error = refusal(lambda: operations.submit("a", **options))
    assert said(error, "submit", "a") == (message, hint)


def test_options_of_a_limit() -> None:
    """In lists, as the name of a value, and at the start."""
    assert said(refusal(Limit), "limit", "set", "l")[0] == (
        "a limit needs --max-running, or --starts and --per, or --fair"
    )
    assert said(refusal(lambda: Limit(3, starts=1)), "limit", "set", "l") == (
        "--starts and --per belong together",
        "Pass both, such as --starts 10, --per 1s, or neither.",
    )  # fmt: skip
    error = errors.BadLimit("starts needs per = '1 second'")
    assert said(error, "limit", "set", "l")[0] == '--starts needs --per "1 second"'


@pytest.mark.parametrize(
    ("error", "words", "message", "hint"),
    [
        (errors.BadSchedule("there is already a schedule \"queue must\"", "To change it, pass "
         "replace => true; in Python: replace=True; in a shell: --replace."),
         "schedule add n k --every 1h",
         'there is already a schedule "queue must"', "To change it, pass --replace."),
        (errors.ScheduleNotFound("no schedule", "peers.schedule_status lists them; in a shell: "
         "peers schedule list."), "schedule pause n", "no schedule", "peers schedule list."),
        (errors.LimitNotFound("no limit", "peers.limit_status lists them."), "limit show n",
         "no limit", "`peers limit list` lists them."),
        (errors.ChildStarted("task 3 is dead", "A task can be changed while it waits. "
         "peers.retry(id, args) changes the args of a dead letter."), "change 3 --priority 1",
         "task 3 is dead", "A task can be changed while it waits. `peers dead retry --args` "
         "changes the args of a dead letter."),
        (errors.NotDead("no", "The view peers.dead_letter lists the tasks that can be retried."),
         "dead retry 3", "no", "`peers dead list` lists the tasks that can be retried."),
        (errors.BadGraph("bad graph: there is no task 9, which an edge names", "Insert."),
         "submit a --after 9", "--after must be a task that exists, and there is no task 9",
         "It never existed, or it ended and was pruned."),
        (errors.BadSchedule("from_at must be 1970 or later, and until_at must not be before it",
         "For example: peers.backfill_schedule('nightly', '2026-11-01', now())."),
         "schedule backfill n --from 2026-01-01",
         "--from must be 1970 or later, and --until must not be before it",
         "`peers schedule backfill --help` shows how."),
    ],
)  # fmt: skip
def test_functions_of_sql_become_commands(
    error: errors.PeersError, words: str, message: str, hint: str
) -> None:
    """So do their examples, and the names of their parameters."""
    assert said(error, *words.split()) == (message, hint)


def test_prose_and_names_of_users_stay() -> None:
    """A word such as queue is a parameter only where the sentence says so."""
    for text in ('kind must not be "queue must be 3"', "the queue is paused", "no timeout left",
                 'there is no option "queue"', "a queue and a kind were given"):  # fmt: skip
        assert said(errors.BadTask(text), "submit", "a")[0] == text
