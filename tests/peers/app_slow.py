"""An app that takes a while to import."""

import time

from tests.peers.app import noop

__all__ = ["noop"]

time.sleep(30)
