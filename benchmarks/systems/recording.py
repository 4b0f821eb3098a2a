"""Record the start of a handler: one write to a file of this process."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Final

_RECORD: Final = struct.Struct("<qq")
_file: int | None = None


def record_start(number: int) -> None:
    """Append the task's number and CLOCK_MONOTONIC in nanoseconds."""
    global _file  # noqa: PLW0603  # opened by the process that writes, which a fork may have made
    if _file is None:
        path = Path(os.environ["BENCHMARK_RECORDS"], f"{os.getpid()}.bin")
        _file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(_file, _RECORD.pack(number, time.monotonic_ns()))
