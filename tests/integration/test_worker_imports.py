"""What a worker imports."""

import subprocess
import sys

PLAIN = """
import sys
import peers.worker.work
from typing import Any
from datetime import date
from dataclasses import dataclass
from peers.handlers import Handler, register
@dataclass
class Customer:
    birthday: date
def handler(n: int, x, tags: list[str] = [], c: Customer | None = None) -> dict[str, Customer]: ...
handler = Handler("k", handler)
handler.resolve()
handler.load_args(handler.dump_args({"n": 1, "x": {}, "c": Customer(date(2026, 1, 1))}))
print("pydantic" in sys.modules)
"""


def test_a_worker_whose_handlers_have_no_models_does_not_import_pydantic() -> None:
    """It would take 0.1 s and 10 MB of each worker."""
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
