"""Stop or start the Postgres of a cell: `python -m benchmarks.long_horizon.server stop FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peers.embedded import EmbeddedPostgres

VERSION: Final = "18"
_DURABLE: Final = {"fsync": "on", "full_page_writes": "on"}
_OURS: Final = {"listen_addresses"}
"""Settings of the harness's file that the embedded server decides itself."""


def settings(postgres_conf: str) -> dict[str, str]:
    """Return the settings in the harness's postgres.conf."""
    found = dict(_DURABLE)
    for line in postgres_conf.splitlines():
        name, equals, value = line.partition("#")[0].partition("=")
        if equals and name.strip() not in _OURS:
            found[name.strip()] = value.strip().strip("'")
    return found


def postgres(folder: Path, options: Mapping[str, str]) -> EmbeddedPostgres:
    """Return the server of this folder; it is not started."""
    return EmbeddedPostgres(folder / "postgres", version=VERSION, settings=options)


def main() -> int:
    """Stop the server or start it again with the same settings."""
    verb, folder = sys.argv[1], Path(sys.argv[2])
    server = postgres(folder, settings((folder / "postgres.conf").read_text()))
    if verb == "stop":
        server.stop()
    else:
        server.start()
        server.close()  # the runner still uses it
    return 0


if __name__ == "__main__":
    sys.exit(main())
