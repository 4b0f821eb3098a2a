"""Write the generated pages of docs/ and the examples of deploy/systemd/.

`--check` only says which ones are out of date.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peers.embedded import EmbeddedPostgres, throwaway
from tools.docs import (
    cli_reference,
    events_reference,
    settings_examples,
    settings_reference,
    sql_reference,
)

PROJECT = Path(__file__).parents[2]


def main() -> int:
    """Generate the pages and return the exit code (1: `--check` found an old page)."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    only_check = parser.parse_args().check
    with throwaway() as postgres:
        pages = {**_without_database(), "docs/sql.md": _sql_page(postgres)}
    old = [name for name, text in pages.items() if _read(PROJECT / name) != text]
    for name in old:
        print(f"{name} is out of date" if only_check else f"{name} is written")
        if not only_check:
            (PROJECT / name).write_text(pages[name])
    return 1 if only_check and old else 0


def _without_database() -> dict[str, str]:
    return {
        "docs/cli.md": cli_reference.page(),
        "docs/events.md": events_reference.page(),
        "docs/settings.md": settings_reference.page(),
        "deploy/systemd/peers.env.example": settings_examples.environment(),
        "deploy/systemd/peers.toml.example": settings_examples.toml(),
    }


def _sql_page(postgres: EmbeddedPostgres) -> str:
    from peers.database import schema
    from peers.database.connection import connect

    with connect(postgres.url("postgres"), application_name="docs") as connection:
        schema.migrate(connection)
        return sql_reference.page(connection)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


if __name__ == "__main__":
    raise SystemExit(main())
