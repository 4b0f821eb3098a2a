"""A model behind HTTP that does as it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Reply = tuple[int, dict[str, str], Any]


class RequestedColumns(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Endpoint:
    """A server that gives the answers it is told to, the last one for ever; doubles x by itself."""

    def __init__(self, port: int = 0) -> None:
        self.answers: list[Reply] = []
        self.requests = 0
        self.asked: list[RequestedColumns] = []
        self.respond: Callable[[RequestedColumns], Reply] = double
        """What it does where nothing else was said."""
        self.chunked = False
        self.poison: float | None = None
        """A row with this x makes it fail for all rows of the request."""
        self.server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.port = self.server.server_port
        self.base = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.base}/predict"

    def reply(self, asked: RequestedColumns) -> Reply:
        """The answer to a request."""
        self.requests += 1
        self.asked.append(asked)
        status, headers, answer = self.answers.pop(0) if self.answers else self.respond(asked)
        rows = asked.body.get("instances", []) if isinstance(asked.body, dict) else []
        if any(row.get("x") == self.poison for row in rows) and self.poison is not None:
            status, answer = 500, {"why": "cannot be helped"}
        return status, headers, answer


def double(asked: RequestedColumns) -> Reply:
    """Protocol V1: twice x."""
    return 200, {}, {"predictions": [row["x"] * 2 for row in asked.body["instances"]]}


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5.0

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._answer(json.loads(body) if body else None)

        def do_GET(self) -> None:
            self._answer(None)

        def _answer(self, body: Any) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more, answer = endpoint.reply(
                RequestedColumns(self.command, self.path, headers, body)
            )
            text = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("connection", "close")
            if endpoint.chunked:
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in (text[:5], text[5:]):
                    if piece:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
            else:
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    return Handler
