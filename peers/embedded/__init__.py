"""Run a private Postgres, for people who have none.

It listens on a Unix socket only. All processes that name the same data folder share it. It stops by
itself when the last of them has ended, even by SIGKILL.
"""

from peers.embedded.errors import EmbeddedError
from peers.embedded.postgres import EmbeddedPostgres, throwaway

__all__ = ["EmbeddedError", "EmbeddedPostgres", "throwaway"]
