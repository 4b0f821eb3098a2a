"""A proxy between a peer and its database that can fall silent: it accepts and sends nothing."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psycopg
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK: Final = 1 << 16


class Proxy:
    """Passes on the bytes between clients and a Postgres server, in a thread.

    While it is `silent` it accepts connections and bytes, and passes nothing on. More connections
    than `most` it ends at once.
    """

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            info = connection.info
            folder = Path(info.host)
            self._server: str | tuple[str, int] = (
                str(folder / f".s.PGSQL.{info.port}") if folder.is_absolute()
                else (info.host, info.port)
            )  # fmt: skip
        self.silent = False
        self.most = 1000
        self._well = -1
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = os.pipe()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._ends: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = make_conninfo(url, host="127.0.0.1", port=self._listener.getsockname()[1])

    @contextlib.contextmanager
    def silence(self, after: int = 0) -> Iterator[None]:
        """Nothing comes through meanwhile; then every connection ends.

        `after`: so many connections, counted from now, are well.
        """
        self._well = after
        self.silent = not after
        try:
            yield
        finally:
            self.cut()
            self._well = -1
            self.silent = False

    @property
    def connections(self) -> int:
        """How many go through here."""
        return len(self._ends) // 2

    def cut(self) -> None:
        """End every connection that goes through here."""
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._woken, b"\0")
        self._thread.join()
        for end in [self._listener, *self._ends]:
            end.close()
        self._selector.close()
        os.close(self._wake)
        os.close(self._woken)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._pass_on(key.fileobj)
                else:
                    return

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.connections >= self.most:
            client.close()
            return
        self.silent = self.silent or self._well == 0
        self._well -= self._well > 0
        family = socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET
        server = socket.socket(family)
        server.connect(self._server)
        for end, other in ((client, server), (server, client)):
            self._ends[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        if end not in self._ends:
            return
        try:
            data = end.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self._close(end)
        elif not self.silent:
            with contextlib.suppress(OSError):
                self._ends[end].sendall(data)

    def _close(self, end: socket.socket) -> None:
        for one in (end, self._ends[end]):
            self._selector.unregister(one)
            self._ends.pop(one)
            one.close()
