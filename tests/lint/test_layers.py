"""The layer contract of pyproject.toml, tried on small packages made for the purpose."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "pyproject.toml"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(folder: Path, modules: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Write a package `peers` of these modules (dotted name: source) and check its imports."""
    for name, source in {"__init__": "", **modules}.items():
        path = folder / "peers" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return subprocess.run(
        [LINT_IMPORTS, "--config", CONFIG, "--no-cache", "--no-logo"],
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
        "settings": "from peers import errors\n",
        "model": "from peers.errors import PeersError\n",
        "handlers": "from peers.model import Task\n",
        "kernel": "from peers import db, model\n",
        "db": "from peers import errors, settings\n",
        "client": "from peers import kernel, schema\n",
        "schema": "from peers import db\n",
        "embedded": "",
        "worker": "from peers import errors, handlers, model\n",
        "workers": "from peers.model import Task\n",
        "peer": "from peers import heartbeat, workers\n",
        "heartbeat": "from peers import kernel\n",
        "demo.__init__": "",
        "demo.run": "from peers import embedded, schema, submit, task\n",
        "cli.__init__": "from peers.cli import run\n",
        "cli.run": "from peers import demo, peer\n",
    }
    outcome = lint_imports(tmp_path, modules)
    assert outcome.returncode == 0, outcome.stdout
    assert "Contracts: 4 kept, 0 broken." in outcome.stdout


@pytest.mark.parametrize(
    ("importer", "imported", "broken"),
    [
        ("db", "kernel", "Imports point downward only"),
        ("workers", "heartbeat", "Imports point downward only"),
        ("handlers", "client", "Imports point downward only"),
        ("somewhere", "errors", "Imports point downward only"),
        ("peer", "worker", "The parent never imports the child that runs user code"),
        ("cli.run", "worker", "The parent never imports the child that runs user code"),
        ("worker", "kernel", "The child knows the ground floor"),
        ("worker", "settings", "The child knows the ground floor"),
        ("demo.run", "kernel", "Guests use the public API only"),
        ("predict.run", "client", "Guests use the public API only"),
    ],
)
def test_a_wrong_import_breaks_its_contract(
    importer: str, imported: str, broken: str, tmp_path: Path
) -> None:
    """Each wrong import, and each module without a place, breaks the contract that speaks of it."""
    packages = {f"{importer.partition('.')[0]}.__init__": ""} if "." in importer else {}
    outcome = lint_imports(
        tmp_path, {**packages, imported: "", importer: f"import peers.{imported}\n"}
    )
    assert outcome.returncode == 1
    lines = [line for line in outcome.stdout.splitlines() if line.endswith("BROKEN")]
    assert [line for line in lines if line.startswith(broken)], outcome.stdout
