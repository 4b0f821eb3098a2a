"""Import the app, and report the kinds that it declares or why it cannot be imported."""

from __future__ import annotations

import gc
import importlib
import json

from peers.handlers import registry
from peers.protocol.messages import ImportFailed, KindDeclared
from peers.worker.describe import describe
from peers.worker.imports import keep_own_frames


def import_app(app: str) -> ImportFailed | None:
    """Import these modules, separated by commas; return why one cannot be imported."""
    try:
        for module in app.split(","):
            importlib.import_module(module)
        for handler in registry().values():
            handler.resolve()
            handler.declared_limits()  # raises if a path leads nowhere
            handler.declared_schedules()  # raises if the args of one do not fit
    except BaseException as error:  # noqa: BLE001  # whatever user code raises, the peer reports it
        has_own_frames = keep_own_frames(error)
        described = describe(error)
        trace = described.traceback if has_own_frames else None
        reason = f"{described.error_type}: {described.message}"
        if isinstance(error, ModuleNotFoundError) and app.endswith(".py"):
            name = app.removesuffix(".py").replace("/", ".")
            reason += f". Name the module, {name}, not its file"
        return ImportFailed(reason, trace or "")
    # the app's own objects stay, so garbage collections in handlers should not visit them
    gc.collect()
    gc.freeze()
    return None


def declared_kinds() -> list[KindDeclared]:
    """Return the handlers of the app in the form that the peer takes."""
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
            keep_log=handler.keep_log,
            queue=handler.queue,
            priority=handler.priority,
        )
        for handler in registry().values()
    ]


def declarations() -> bytes:
    """Return what else the app declares for the database, as JSON."""
    limits = [each for handler in registry().values() for each in handler.declared_limits()]
    schedules = [each for handler in registry().values() for each in handler.declared_schedules()]
    return json.dumps({"limits": limits, "schedules": schedules}).encode()
