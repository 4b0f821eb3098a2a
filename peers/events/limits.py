"""Events of limits: what their declarations changed."""

from __future__ import annotations

import logging

from peers.events.record import event


@event(logging.INFO, "limit %(limit)s was %(change)s as the app declares it")
def limit_declared(*, limit: str, change: str) -> None:
    """Report that a declaration in the app has created or changed a limit."""


@event(logging.ERROR, "limit %(limit)s is not as the app declares it: %(error)s")
def limit_refused(*, limit: str, error: str) -> None:
    """Report that the database refused a declaration. The limit does not hold as the app says.

    Other limits of the same kind or queue may leave no place for it: `peers limit list` has them.
    The peer tries again when it joins the next time.
    """
