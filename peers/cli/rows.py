"""Run a query of the command line, whose rows have JSON as text (see exact_json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg.adapt import Loader
from psycopg.rows import dict_row

from peers.cli.exact_json import Json
from peers.errors import translated

if TYPE_CHECKING:
    from typing import LiteralString

    from psycopg.abc import Buffer

    from peers.database.connection import Connection

Row: TypeAlias = dict[str, Any]


class _JsonLoader(Loader):
    """Read json and jsonb as text."""

    def load(self, data: Buffer) -> Json:
        """Return the text."""
        return Json(bytes(data).decode())


def rows(connection: Connection, query: LiteralString, /, **values: object) -> list[Row]:
    """Return the rows of a query, each a dict."""
    with translated(), connection.cursor(row_factory=dict_row) as cursor:
        for name in ("json", "jsonb"):
            cursor.adapters.register_loader(name, _JsonLoader)
        return cursor.execute(query, values).fetchall()
