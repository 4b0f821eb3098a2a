"""A private Postgres for people who have none.

It listens on a Unix socket only, is shared by every process that names the same data folder, and
stops by itself when the last of them is gone, even by SIGKILL.
"""

from peers.embedded.errors import EmbeddedError
from peers.embedded.postgres import EmbeddedPostgres, throwaway

__all__ = ["EmbeddedError", "EmbeddedPostgres", "throwaway"]
