"""What a worker says about an application that cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("def f():\n    import no_such_thing\nf()\n", "in <module>\n    f()"),
        ("def f(:\n", "SyntaxError"),
        (None, "ModuleNotFoundError"),
    ],
)
def test_the_traceback_of_an_import_begins_in_the_users_own_module(
    tmp_path: Path, source: str | None, first: str
) -> None:
    """Neither the worker's frames nor importlib's are shown."""
    if source is not None:
        (tmp_path / "unit_app.py").write_text(source)
    code = (
        "import importlib\n"
        "from peers.worker.describe import describe\n"
        "__package__ = 'peers.worker'\n"
        "try: importlib.import_module('unit_app')\n"
        "except BaseException as error: print(describe(error).traceback)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "importlib" not in told
    assert first in "\n".join(told.splitlines()[:3])
    assert source is None or "import no_such_thing" in told or "def f(:" in told
