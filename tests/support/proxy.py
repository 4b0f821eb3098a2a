"""Between a client and its server: a proxy that breaks connections at the worst moment."""

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
    """Where the next COMMIT that passes is lost."""

    BEFORE = "the server never sees it"
    AFTER = "the server commits, the client never hears of it"


class Proxy:
    """Passes everything on, but what `cuts` says of the COMMITs that come: one entry each."""

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
                for work in (self._to_server, self._to_client):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._server["host"]), int(self._server.get("port") or _PORT)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_READ_SIZE):
                if b"COMMIT\0" in data:
                    self.commits += 1
                    cut = next(self.cuts, None)
                    if cut is not None:
                        _close(client)  # it hears nothing any more
                    if cut is Cut.BEFORE:
                        break
                server.sendall(data)
        _shut(server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_READ_SIZE):
                with contextlib.suppress(OSError):
                    client.sendall(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _close(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _shut(server: socket.socket) -> None:
    """Say goodbye when everything was sent."""
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)
