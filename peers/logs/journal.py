"""Write log entries to systemd's journal with fields, so that `journalctl PEERS_TASK_ID=42` works.

The protocol is that of sd_journal_send(3): one datagram for each entry. Each field is `NAME=value`
and a newline, or, if the value has several lines, the name, a newline, the length and the value.
A datagram that is too large goes into a sealed memory file, whose descriptor is sent.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
_LENGTH: Final = struct.Struct("<Q")
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_PRIORITIES: Final = (
    (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6),
    (logging.NOTSET, 7),
)  # fmt: skip
_NOT_IN_A_NAME: Final = re.compile("[^A-Z0-9]")
_LONGEST_NAME: Final = 64
_PREFIX: Final = "PEERS_"
_EXTRA: Final = "extra_"
_SINGULAR: Final = {"task_ids": "task_id", "kinds": "kind", "tokens": "token"}
"""Fields with several values. The journal can hold a field more than once in an entry."""


def priority(level: int) -> int:
    """Return the priority of syslog for a level of `logging`."""
    return next(number for least, number in _PRIORITIES if level >= least)


def exists() -> bool:
    """Return whether this host, or container, has a journal to write to."""
    return os.path.exists(SOCKET)  # noqa: PTH110  # pathlib raises if the folder may not be read


def entry(
    record: logging.LogRecord, message: str, ours: Iterable[tuple[str, object]],
    others: Iterable[tuple[str, object]],
) -> bytes:  # fmt: skip
    """Return an entry of the journal. The name of each field gets `PEERS_` before it.

    `others`: fields of user code. One that would have the name of one of ours gets `EXTRA_` too:
    the journal holds a field several times, so a handler's `Task-Id` would be a second task.
    """
    parts = [
        _field("MESSAGE", message),
        _field("PRIORITY", str(priority(record.levelno))),
        _field("SYSLOG_IDENTIFIER", "peers"),
    ]
    if record.pathname:
        parts += [
            _field("CODE_FILE", record.pathname), _field("CODE_LINE", str(record.lineno)),
            _field("CODE_FUNC", str(record.funcName)),
        ]  # fmt: skip
    taken = set()
    for name, value in ours:
        singular = _SINGULAR.get(name, name)
        taken.add(_name(singular))
        parts += [_field(_name(singular), each) for each in _texts(name, value)]
    for name, value in others:
        free = name if _name(name) not in taken else f"{_EXTRA}{name}"
        if value is not None:
            parts.append(_field(_name(free), _text(value)))
    return b"".join(parts)


def send(written: bytes) -> bool:
    """Send an entry; return False if the journal does not take it. Blocks while its queue is full.

    Each entry has a socket of its own. A handler may close descriptors that it does not know, and
    its own next socket would then get our entries.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as journal:
            try:
                journal.sendto(written, SOCKET)
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                _send_file(journal, written)
    except OSError:
        return False
    return True


def _send_file(journal: socket.socket, written: bytes) -> None:
    memory = os.memfd_create("peers-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(written)
        while left:
            left = left[os.write(memory, left) :]
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
        journal.sendmsg([], [rights], 0, SOCKET)
    finally:
        os.close(memory)


def _field(name: str, value: str) -> bytes:
    text = value.encode(errors="backslashreplace")
    if b"\n" not in text:
        return b"%b=%b\n" % (name.encode(), text)
    return b"%b\n%b%b\n" % (name.encode(), _LENGTH.pack(len(text)), text)


def _name(name: str) -> str:
    """Return the name of a field as the journal takes it: capital letters, digits and `_`."""
    return _NOT_IN_A_NAME.sub("_", f"{_PREFIX}{name}".upper())[:_LONGEST_NAME]


def _texts(name: str, value: object) -> Iterator[str]:
    if name in _SINGULAR and isinstance(value, list | tuple):
        yield from map(_text, value)
    elif value is not None:
        yield _text(value)


def _text(value: object) -> str:
    try:
        return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
    except Exception as error:  # noqa: BLE001  # a value of user code may raise anything
        return f"({type(value).__name__} that cannot be written: {type(error).__name__})"
