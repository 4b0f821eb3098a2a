"""The log of a process: the stream that it goes to, and what Python itself says in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from peers.logs.log_output import is_journal
from tests.support.cli import PATIENCE, environment

if TYPE_CHECKING:
    from collections.abc import Callable


def run(script: str, stderr: int, **more: str) -> None:
    """Runs Python code that logs."""
    subprocess.run(
        [sys.executable, "-c", script], env=environment(more=more), stderr=stderr, check=True,
        timeout=PATIENCE,
    )  # fmt: skip


LOGS = (
    "from peers import events; from peers.logs import log_output;"
    "log_output.configure('auto', write_timeout=0.0);" + "events.leases_reconciled(released=3)"
)


def test_the_journal_is_known_by_its_stream() -> None:
    """Only if stderr is what systemd connected; a redirected one is as ever."""
    reader, writer = os.pipe()
    found = os.fstat(writer)
    run(LOGS, writer, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
    run(LOGS, writer, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino + 1}")
    os.close(writer)
    assert not is_journal(writer)
    with os.fdopen(reader) as output:
        journal, plain = output.read().splitlines()
    assert journal.startswith("<4>WARNING released 3 tasks that this peer had claimed")
    assert json.loads(plain)["event"] == "leases_reconciled"


# ------------------------------------------------------------------------------ what Python says


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        (
            "t = threading.Thread(target=lambda: 1 / 0, name='own'); t.start(); t.join()",
            lambda line: "thread own" in line["message"] and "ZeroDivision" in line["traceback"],
        ),
        (
            "A = type('A', (), {'__del__': lambda _: 1 / 0}); a = A(); del a",
            lambda line: "ZeroDivision" in line["traceback"],
        ),
        ("warnings.warn('old')", lambda line: "old" in line["message"]),
    ],
)
def test_what_python_itself_says_is_part_of_the_log(
    code: str, seen: Callable[[dict[str, Any]], bool]
) -> None:
    """Exceptions of threads and destructors, and warnings, are objects among the others."""
    reader, writer = os.pipe()
    run(f"import threading, warnings; {LOGS}; {code}", writer)
    os.close(writer)
    with os.fdopen(reader) as output:
        lines = [json.loads(line) for line in output]
    assert seen(lines[-1])


def test_timers_that_come_late_are_not_told() -> None:
    """APScheduler's own warnings are no news to an operator; its errors are."""
    reader, writer = os.pipe()
    run(
        "import logging; from argparse import Namespace; from peers.cli import run;"
        "from unittest.mock import patch; from peers.settings import Settings\n"
        "with patch.object(run, 'settings_of', lambda _: Settings()):\n"
        "    run._open_log(Namespace(log_format='json'))\n"
        "log = logging.getLogger('apscheduler.scheduler')\n"
        "log.warning('maximum number of running instances reached')\n"
        "log.error('a job raised')",
        writer,
    )
    os.close(writer)
    with os.fdopen(reader) as output:
        assert [json.loads(line)["message"] for line in output] == ["a job raised"]
