"""A proxy between a client and its server that loses COMMITs."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_READ_SIZE: Final = 1 << 16
_PORT: Final = 5432


class Cut(Enum):
    """Where the next COMMIT is lost."""

    BEFORE = "the server never sees it"
    DURING = "the client is cut off while the server commits"
    AFTER = "the server has committed, the client never hears of it"


class CommitProxy:
    """Passes everything on; each entry of `cuts` loses one COMMIT."""

    def __init__(self, folder: Path, url: str) -> None:
        self._server = conninfo_to_dict(url)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f".s.PGSQL.{_PORT}"))
        self._listener.listen()
        self.url = make_conninfo(url, host=str(folder), port=_PORT, sslmode="disable")
        self.cuts: Iterator[Cut | None] = itertools.repeat(None)
        self.commits = 0
        """How many COMMITs have come so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                deaf = threading.Event()  # the next reply is the last, and not passed on
                for work in (self._to_server, self._to_client):
                    arguments = (client, server, deaf)
                    threading.Thread(target=work, args=arguments, daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._server["host"]), int(self._server.get("port") or _PORT)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _to_server(
        self, client: socket.socket, server: socket.socket, deaf: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_READ_SIZE):
                if b"COMMIT\0" in data.upper():
                    self.commits += 1
                    cut = next(self.cuts, None)
                    if cut is Cut.AFTER:
                        deaf.set()
                    elif cut is not None:
                        _shut(client, socket.SHUT_RDWR)
                    if cut is Cut.BEFORE:
                        break
                server.sendall(data)
        _shut(server, socket.SHUT_WR)

    def _to_client(
        self, client: socket.socket, server: socket.socket, deaf: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(_READ_SIZE)) and not deaf.is_set():
                with contextlib.suppress(OSError):
                    client.sendall(data)
        for end in (client, server):
            _shut(end, socket.SHUT_RDWR)
            end.close()


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(how)
