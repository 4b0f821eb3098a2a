"""What can go wrong with the embedded Postgres."""


class EmbeddedError(Exception):
    """The embedded Postgres cannot be found, started or stopped.

    The message names the thing, the bound that it met and the remedy; when a start failed, it ends
    with the tail of the server's log.
    """
