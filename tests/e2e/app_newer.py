"""The next release of the app: it knows one kind more."""

from __future__ import annotations

from typing import Any

from peers import current_task, task
from tests.e2e.app import noop
from tests.e2e.ledger import recorded

__all__ = ["brand_new", "noop"]


@task("brand.new")
def brand_new() -> dict[str, Any]:
    """What the older app has never heard of."""
    with recorded():
        return {"token": current_task().token}
