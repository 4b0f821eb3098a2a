"""`peers log`: show what an attempt has printed and logged, also while it runs."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, queries
from peers.cli.argument_types import positive, task_id
from peers.cli.database import connected
from peers.cli.parser import add_command, advice
from peers.errors import TaskNotFound

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.database.connection import Connection

_LOOK_EVERY: Final = 0.5
_LOOK_SOON: Final = 0.1
_ASK_EVERY: Final = 5.0
_FRESH_WITHIN: Final = 2.0
"""How long to wait for the peer to store the log of a running attempt. It may have nothing new."""
_COLOUR: Final = re.compile(r"(\x1b\[[0-9;:]*m)")
_NO_COLOUR: Final = "\x1b[0m"
_ENDED: Final = ("completed", "dead", "cancelled")
_WHY_NONE: Final = (
    "Logs are kept of kinds with @task(keep_log=True): of failed attempts that have printed or"
    ' logged something; with keep_log="always" of completed ones too.'
)


def register(commands: Commands) -> None:
    """Declare `log`."""
    log = add_command(
        commands, "log", _log, "show what an attempt has printed and logged", reads=True,
        example="peers log 42 --follow",
    )  # fmt: skip
    log.add_argument("id", type=task_id, metavar="ID", help="id of a task")
    which = log.add_mutually_exclusive_group()
    which.add_argument(
        "--attempt", type=positive, metavar="N",
        help="which attempt (default: the last one that has a log)",
    )  # fmt: skip
    which.add_argument(
        "--follow", "-f", action="store_true",
        help="wait for the attempt that runs or comes next, and print its log until its end",
    )  # fmt: skip


def _log(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        task = queries.running_attempt(connection, args.id)
        if args.follow and task["state"] not in _ENDED:
            return _Follower(args, connection).run()
        if task["state"] == "running" and args.attempt is None:
            _refresh(connection, args.id, task["token"])
        logs = queries.logs(connection, args.id)
    chosen = [log for log in logs if args.attempt in (None, log["attempt"])]
    if not chosen:
        of_attempt = "" if args.attempt is None else f" of attempt {args.attempt}"
        hint = f"There are logs of {_attempts(logs)}." if logs else _WHY_NONE
        raise TaskNotFound(f"task {args.id} has no log{of_attempt}", hint)
    log = chosen[-1]
    if args.json:
        output.document({"task_id": args.id, "kind": task["kind"], "state": task["state"], **log})
        return 0
    output.say(_heading(args.id, task, log))
    if log["cut"]:
        output.say(f"… the first {_skipped(log):,} bytes were not kept")
    _print(log["text"])
    _advise(args, task, log, logs)
    return 0


def _advise(
    args: argparse.Namespace, task: dict[str, Any], log: dict[str, Any], logs: list[dict[str, Any]]
) -> None:
    others = [each for each in logs if each is not log]
    if others and args.attempt is None:
        command = advice(args, f"log {args.id} --attempt {others[-1]['attempt']}")
        output.say(f"hint: there are logs of {_attempts(others)} too: `{command}`")
    if task["state"] == "running" and task["token"] == log["token"]:
        output.say(f"hint: it runs; `{advice(args, f'log {args.id} --follow')}` follows it.")


def _attempts(logs: list[dict[str, Any]]) -> str:
    numbers = ", ".join(str(log["attempt"]) for log in logs)
    return f"attempt {numbers}" if len(logs) == 1 else f"the attempts {numbers}"


def _heading(id: int, task: dict[str, Any], log: dict[str, Any]) -> str:
    how = log["outcome"] or (
        "running" if task["token"] == log["token"] and task["state"] == "running"
        else "ended without an outcome"
    )  # fmt: skip
    return output.one_line(
        f"task {id} ({task['kind']}), attempt {log['attempt']} on host {log['host'] or '?'}: {how}"
    )


def _refresh(connection: Connection, id: int, token: object) -> None:
    """Let the peer store the log of the running attempt, and wait a moment for it."""

    def newest() -> Any:
        return [each["stored_at"] for each in queries.logs(connection, id, token, texts=False)]

    before, until = newest(), time.monotonic() + _FRESH_WITHIN
    queries.follow_log(connection, id)
    while newest() == before and time.monotonic() < until:
        time.sleep(_LOOK_SOON)


class _Follower:
    """Prints the complete lines of a running attempt as they come, and the rest at its end.

    Only the last line can change, if it is overwritten like a progress bar.
    """

    def __init__(self, args: argparse.Namespace, connection: Connection) -> None:
        self._id = args.id
        self._again = advice(args, f"log {args.id} --follow")
        self._as_json = args.json
        self._connection = connection
        self._token: object = None
        self._seen = 0
        """How many bytes of the log were printed."""
        self._ask_at = 0.0

    def run(self) -> int:
        """Follow an attempt to its end."""
        task, waits = self._read(), False
        while self._token is None:
            if task["state"] in _ENDED:
                output.say(f"task {self._id} is {task['state']}")
                return 0
            if not waits:
                output.say(f"task {self._id} is {task['state']}: waiting until it runs")
            waits = True
            time.sleep(_LOOK_EVERY)
            task = self._read()
        kind, attempt = output.one_line(task["kind"]), task["attempt"]
        output.say(f"task {self._id} ({kind}), attempt {attempt}: running")
        while task["state"] == "running" and task["token"] == self._token:
            self._look()
            time.sleep(_LOOK_EVERY)
            task = self._read()
        return self._end(task)

    def _read(self) -> dict[str, Any]:
        """Read the task; note the attempt that runs, unless there is one already."""
        task = queries.running_attempt(self._connection, self._id)
        if self._token is None and task["state"] == "running":
            self._token = task["token"]
        return task

    def _look(self) -> None:
        """Print what is new, and ask the peer from time to time to go on storing the log."""
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _ASK_EVERY
            queries.follow_log(self._connection, self._id)
        for log in queries.logs(self._connection, self._id, self._token):
            self._print_new(log, whole=False)

    def _end(self, task: dict[str, Any]) -> int:
        """Print the rest of the log, which was stored with the outcome."""
        for log in queries.logs(self._connection, self._id, self._token):
            self._print_new(log, whole=True)
            how = log["outcome"] or "ended without an outcome"
            output.say(f"attempt {log['attempt']} {how}; the task is {task['state']}")
            break
        else:
            output.say(f"the attempt has ended without a log; the task is {task['state']}")
        if task["state"] not in _ENDED:
            output.say(f"hint: `{self._again}` follows the next attempt.")
        return 0

    def _print_new(self, log: dict[str, Any], *, whole: bool) -> None:
        text = log["text"].encode()
        start = _skipped(log)
        if self._seen < start:
            output.say(f"… {start - self._seen:,} bytes were not kept")
            self._seen = start
        new = text[self._seen - start :]
        if not whole:
            new = new[: new.rfind(b"\n") + 1]
        if new:
            self._seen += len(new)
            self._put(log["attempt"], new.decode(errors="replace"))

    def _put(self, attempt: int, text: str) -> None:
        if self._as_json:
            print(json.dumps({"task_id": self._id, "attempt": attempt, "text": text}))
        else:
            _print(text)
        sys.stdout.flush()


def _skipped(log: dict[str, Any]) -> int:
    """Return how many bytes are missing at the beginning."""
    return max(0, int(log["size"]) - len(log["text"].encode()))


def _print(text: str) -> None:
    """Print a text of a handler: with its colours on a terminal, and never other escapes."""
    shown = "".join(
        (part if sys.stdout.isatty() else "") if index % 2 else output.readable(part)
        for index, part in enumerate(_COLOUR.split(text))
    )
    if sys.stdout.isatty() and _COLOUR.search(text):
        shown += _NO_COLOUR
    print(shown, end="" if text.endswith("\n") else "\n")
