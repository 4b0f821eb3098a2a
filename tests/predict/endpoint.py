"""A model behind HTTP that does as it is told."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """A server that gives the answers it is told to, the last one for ever; doubles x by itself."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.requests = 0
        self.poison: float | None = None
        """A row with this x makes it fail for all rows of the request."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.requests += 1
                doubled = {"predictions": [row["x"] * 2 for row in body["instances"]]}
                status, headers, answer = (
                    endpoint.answers.pop(0) if endpoint.answers else (200, {}, doubled)
                )
                if any(row["x"] == endpoint.poison for row in body["instances"]):
                    status, answer = 500, {"why": "cannot be helped"}
                text = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/predict"
