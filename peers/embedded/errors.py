"""Define the error of the embedded Postgres."""


class EmbeddedError(Exception):
    """The embedded Postgres cannot be found, started or stopped.

    The message says what is wrong, the bound and the remedy. After a failed start, it ends with the
    last lines of the server's log.
    """
