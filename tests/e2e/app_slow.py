"""An app that takes a while to import."""

import time

from tests.e2e.app import noop

__all__ = ["noop"]

time.sleep(30)
