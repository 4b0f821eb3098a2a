"""The journal: entries with fields, by the protocol of systemd, and nothing that stops a peer."""

from __future__ import annotations

import array
import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from peers import events
from peers.logs import journal, log_format, log_output
from peers.logs.log_queue import BYTES_MAX, QueueHandler, Target
from tests.support.cli import PATIENCE, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = UUID("0d3a4e8c-36c0-4d8e-9b53-0f4c8fbfd0a4")
PEER = UUID("76ddae7f-c76b-44cc-a277-f2bcceaccc38")


class Journald:
    """Receives entries like systemd-journald."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE)

    def receive(self) -> dict[str, list[str]]:
        """The next entry: each field with its values."""
        data, rights, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if rights:
            [(_, _, raw)] = rights
            [descriptor] = array.array("i", raw)
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.close(descriptor)
        return parse(data)

    def close(self) -> None:
        """End it."""
        self._socket.close()


def parse(data: bytes) -> dict[str, list[str]]:
    """The fields of an entry, as systemd's own code reads them."""
    fields: dict[str, list[str]] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, has_value, value = line.partition(b"=")
        if has_value:
            data = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, data = rest[8 : 8 + length], rest[8 + length :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert name.isupper() or name.replace(b"_", b"").isalnum()
        fields.setdefault(name.decode(), []).append(value.decode())
    return fields


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    """A journal of this test, which log_output takes for the host's."""
    it = Journald(tmp_path / "socket")
    monkeypatch.setattr(journal, "SOCKET", it.path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield it
    it.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("peers").setLevel(logging.NOTSET)


def test_an_entry_has_the_fields_of_its_event(
    journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`journalctl PEERS_TASK_ID=42` finds it, and its message is the line that people read."""
    monkeypatch.setattr("peers.events.record._Process.peer_id", PEER)
    log_output.configure("journal", write_timeout=0.0)
    events.task_failed(
        task_id=42, kind="a", attempt=2, token=TOKEN, error_type="ValueError", error_message="m"
    )
    entry = journald.receive()
    assert entry["PRIORITY"] == ["4"]
    assert entry["SYSLOG_IDENTIFIER"] == ["peers"]
    assert entry["MESSAGE"] == [
        f"WARNING task 42 (a) failed in attempt 2: ValueError: m  [token={TOKEN}]"
    ]
    for name, value in {
        "EVENT": "task_failed", "TASK_ID": "42", "KIND": "a", "ATTEMPT": "2",
        "TOKEN": str(TOKEN), "PEER_ID": str(PEER), "ERROR_TYPE": "ValueError",
    }.items():  # fmt: skip
        assert entry[f"PEERS_{name}"] == [value]


def test_an_entry_about_several_tasks_is_found_by_each(journald: Journald) -> None:
    """The journal holds a field several times."""
    log_output.configure("journal", write_timeout=0.0)
    events.worker_killed(
        worker_pid=1, reason="r", task_ids=[1, 2], kinds=["a", "b"], tokens=[TOKEN, PEER]
    )
    entry = journald.receive()
    assert entry["PEERS_TASK_ID"] == ["1", "2"]
    assert entry["PEERS_KIND"] == ["a", "b"]
    assert entry["PEERS_TOKEN"] == [str(TOKEN), str(PEER)]


def test_what_user_code_logs_cannot_forge_a_field(journald: Journald) -> None:
    """Its names get the prefix, its lines stay within the value, and a traceback is readable."""
    log_output.configure("journal", write_timeout=0.0)
    try:
        raise ValueError("x\nPRIORITY=0\n")
    except ValueError:
        logging.getLogger("shop").exception(
            "one\nPRIORITY=0\n", extra={"order id": "a\n_UID=0\n", "PRIORITY": 1, "event": 7}
        )
    entry = journald.receive()
    assert entry["PRIORITY"] == ["3"]
    assert entry["PEERS_ORDER_ID"] == ["a\n_UID=0\n"]
    assert entry["PEERS_PRIORITY"] == ["1"]
    assert entry["PEERS_EVENT"] == ["log"]
    assert entry["PEERS_EXTRA_EVENT"] == ["7"]
    assert entry["PEERS_LOGGER"] == ["shop"]
    [message] = entry["MESSAGE"]
    assert message.startswith("ERROR   one\\nPRIORITY=0\\n")
    assert "Traceback (most recent call last)" in message.splitlines()[1]
    assert entry["CODE_FILE"] == [__file__]


@pytest.mark.parametrize("form", [str.lower, str.upper, str.title, lambda name: f"{name}s"])
@pytest.mark.parametrize("separator", ["_", "-", " ", "."])
def test_no_spelling_of_a_field_forges_another_task(
    journald: Journald, form: Callable[[str], str], separator: str
) -> None:
    """The journal's names have capitals only, and hold several values: each must stay alone."""
    log_output.configure("journal", write_timeout=0.0)
    ours = {"task_id": 7, "kind": "a", "attempt": 1, "token": TOKEN}
    names = [*ours, "event", "logger"]
    extra = {form(name).replace("_", separator): ["forged"] for name in names}
    record = logging.getLogger("shop").makeRecord(
        "shop", logging.ERROR, "", 0, "m", (), None, extra=extra
    )
    events.add_fields(record, ours)
    logging.getLogger("shop").handle(record)
    entry = journald.receive()
    for name, value in {**ours, "event": "log", "logger": "shop"}.items():
        assert entry[f"PEERS_{name.upper()}"] == [str(value)]
    assert list(map(str, entry.values())).count("['[\"forged\"]']") == len(names)


def test_an_entry_that_is_too_large_for_a_datagram_arrives(journald: Journald) -> None:
    """It goes through a sealed file."""
    log_output.configure("journal", write_timeout=0.0)
    logging.getLogger("shop").error("%s", "x" * (BYTES_MAX // 8))
    [message] = journald.receive()["MESSAGE"]
    assert len(message) > BYTES_MAX // 8


def test_a_journal_that_has_gone_gets_nothing_and_loses_nothing(
    journald: Journald, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line goes to stderr then. When it is back, entries go there again."""
    log_output.configure("journal", write_timeout=1.0)
    journald.close()
    events.leases_reconciled(released=3)
    assert "released 3 tasks" in capfd.readouterr().err
    Path(journald.path).unlink()
    back = Journald(Path(journald.path))
    events.leases_reconciled(released=4)
    assert back.receive()["PEERS_RELEASED"] == ["4"]
    back.close()


def test_a_journal_that_stops_reading_stops_nobody(journald: Journald) -> None:
    """Its queue is full: callers go on, entries are dropped, and their number is told."""
    handler = QueueHandler(2, events.dropped_record, 0.0, Target(log_format.entry, journal.send))
    handler.setFormatter(log_format.Text(journal=False))
    text = "x" * 10_000
    made = logging.getLogger("shop").makeRecord("shop", 20, "", 0, text, (), None)
    for _ in range(5_000):  # more than the queue and the socket hold
        handler.handle(made)
    dropped = 0
    while not dropped:
        entry = journald.receive()
        if entry["PEERS_EVENT"] == ["log_dropped"]:
            dropped = int(entry["PEERS_LINES"][0])
    assert dropped > 1_000
    handler.close()


def test_auto_writes_to_the_journal_if_stderr_is_its_stream(journald: Journald) -> None:
    """As under a unit of systemd; not for a stderr that was redirected."""
    reader, writer = os.pipe()
    found = os.fstat(writer)
    script = (
        "from peers import events; from peers.logs import journal, log_output;"
        f"journal.SOCKET = {journald.path!r};"
        "log_output.configure('auto', write_timeout=0.0); events.leases_reconciled(released=3)"
    )
    for number in (found.st_ino, found.st_ino + 1):
        subprocess.run(
            [sys.executable, "-c", script], stderr=writer, check=True, timeout=PATIENCE,
            env=environment(more={"JOURNAL_STREAM": f"{found.st_dev}:{number}"}),
        )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as output:
        assert output.read().startswith("{")
    assert journald.receive()["PEERS_RELEASED"] == ["3"]
