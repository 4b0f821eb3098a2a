"""The layer contract of pyproject.toml, tried on small packages made for the purpose."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "pyproject.toml"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(folder: Path, modules: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Write a package `peers` of these modules (dotted name: source) and check its imports."""
    for name, source in {"__init__": "", "worker": "", "predict.__init__": "", **modules}.items():
        path = folder / "peers" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    return subprocess.run(
        [LINT_IMPORTS, CONFIG, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_package_that_keeps_the_layers_passes(tmp_path: Path) -> None:
    """Downward imports, an exporting package and a guest of the public API are allowed."""
    modules = {
        "__init__": "from peers.handlers import task\nfrom peers.client import submit\n",
        "errors": "",
        "types": "",
        "events": "",
        "handlers": "from peers.types import Task\n",
        "protocol.messages": "from peers import errors\n",
        "worker": "from peers import errors, handlers, protocol, types\n",
        "settings": "from peers import errors\n",
        "database.functions": "from peers import settings, types\n",
        "database.schema": "from peers.database import functions\n",
        "embedded": "",
        "client": "from peers.database import functions\n",
        "pool": "from peers import protocol, types\n",
        "peer.loop": "from peers import pool\nfrom peers.peer import heartbeat\n",
        "peer.heartbeat": "from peers.database import functions\n",
        "demo.run": "from peers import submit, task\n",
        "cli.run": "from peers import demo, peer\n",
    }
    outcome = lint_imports(tmp_path, modules)
    assert outcome.returncode == 0, outcome.stdout
    assert "Contracts: 4 kept, 0 broken." in outcome.stdout


@pytest.mark.parametrize(
    ("importer", "imported", "broken"),
    [
        ("database", "client", "Imports point downward only"),
        ("pool", "peer", "Imports point downward only"),
        ("handlers", "client", "Imports point downward only"),
        ("embedded", "database", "Imports point downward only"),
        ("somewhere", "errors", "Imports point downward only"),
        ("worker", "database", "Imports point downward only"),
        ("worker", "settings", "Imports point downward only"),
        ("peer", "worker", "The peer process never imports the worker"),
        ("cli.run", "worker", "The peer process never imports the worker"),
        ("predict.tasks.app", "predict.run", "Predict: imports point"),
        ("predict.inputs", "predict.models", "Predict: imports point"),
        ("demo.run", "database", "Guests use the public API only"),
        ("predict.run", "client", "Guests use the public API only"),
    ],
)
def test_a_wrong_import_breaks_its_contract(
    importer: str, imported: str, broken: str, tmp_path: Path
) -> None:
    """Each wrong import, and each module without a place, breaks the contract that speaks of it."""
    outcome = lint_imports(tmp_path, {imported: "", importer: f"import peers.{imported}\n"})
    assert outcome.returncode == 1
    lines = [line for line in outcome.stdout.splitlines() if line.endswith("BROKEN")]
    assert [line for line in lines if line.startswith(broken)], outcome.stdout
