"""Import the app, and tell what it declares or what is wrong with it."""

from __future__ import annotations

import gc
import importlib

from peers.handlers import registry
from peers.protocol.messages import Broken, KindDeclared
from peers.worker.describe import describe
from peers.worker.imports import keep_own_frames


def import_app(app: str) -> Broken | None:
    """Import these modules, separated by commas; return what is wrong with them."""
    try:
        for module in app.split(","):
            importlib.import_module(module)
        for handler in registry().values():
            handler.resolve()
    except BaseException as error:  # noqa: BLE001  # whatever user code raises, the parent is told
        has_own_frames = keep_own_frames(error)
        told = describe(error)
        trace = told.traceback if has_own_frames else None
        return Broken(f"{told.error_type}: {told.message}", trace or "")
    # what the app is made of stays: no collection may walk over it while a handler waits
    gc.collect()
    gc.freeze()
    return None


def declared() -> list[KindDeclared]:
    """Return the handlers of the app as the peer wants to know them."""
    return [
        KindDeclared(
            kind=handler.kind,
            asynchronous=handler.is_async,
            max_attempts=handler.max_attempts,
            timeout=None if handler.timeout is None else handler.timeout.total_seconds(),
            backoff_base=handler.backoff.total_seconds(),
            backoff_cap=handler.backoff_cap.total_seconds(),
            batch_size=handler.batch_size,
            batch_wait=handler.batch_wait.total_seconds(),
        )
        for handler in registry().values()
    ]
