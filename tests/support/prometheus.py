"""A real Prometheus that scrapes the peers of a test, with the shipped configuration and rules."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "peers.rules.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "peers-dashboard.json"
_INTERVAL: Final = "scrape_interval: 500ms"
_STOP_WITHIN: Final = 20


def binary(name: str) -> str | None:
    """The path of a program of Prometheus; None: it is not installed."""
    return shutil.which(name)


class Prometheus:
    """A server with data of its own. `close` ends it."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        program = binary("prometheus")
        assert program is not None
        config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        config = config.replace("scrape_interval: 15s", _INTERVAL)
        config = config.replace("evaluation_interval: 15s", "evaluation_interval: 500ms")
        config = config.replace("- 127.0.0.1:9187", "\n          ".join(f"- {t}" for t in targets))
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(RULES, folder)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [program, f"--config.file={folder / 'prometheus.yml'}",
             f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data that the API returns; None while it does not answer."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                    return None  # it is starting
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        except urllib.error.URLError:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            return None

    def query(self, expression: str) -> list[Any]:
        """The series that an expression returns now, without those that are not a number."""
        found = self.get("query", query=expression)
        series = [] if found is None else found["result"]
        return [each for each in series if each["value"][1] != "NaN"]

    def firing(self) -> set[str]:
        """The alerts that fire."""
        found = self.get("alerts")
        alerts = [] if found is None else found["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(_STOP_WITHIN)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that show something."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions(panel: dict[str, Any], interval: str = "5s", range_: str = "5m") -> list[str]:
    """The queries of a panel, with what Grafana puts in place of its variables."""
    values = {
        "queue": ".*", "kind": ".*", "__rate_interval": interval, "__range": range_,
    }  # fmt: skip
    return [
        re.sub(r"\$(\w+)", lambda found: values[found[1]], target["expr"])
        for target in panel["targets"]
    ]
