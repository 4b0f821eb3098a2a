"""The units of deploy/systemd, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.cli import PROJECT, peers

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` passes and says nothing, with a command in the place of ours."""
    service = (UNITS / "peers@.service").read_text()
    assert "ExecStart=/opt/peers/bin/peers run" in service
    (tmp_path / "peers@1.service").write_text(service.replace("/opt/peers/bin/peers", "/bin/true"))
    shutil.copy(UNITS / "peers.target", tmp_path)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_example_environment_names_real_settings() -> None:
    """Every variable in the example file, commented out or not, is one that Peers knows."""
    from peers.predict.variables import VARIABLES
    from peers.settings import reference

    names = [
        line.lstrip("#").partition("=")[0]
        for line in (UNITS / "peers.env.example").read_text().splitlines()
        if line.lstrip("#").startswith("PEERS_")
    ]
    assert len(names) >= 5
    assert set(names) <= {setting.variable for setting in reference()} | set(VARIABLES)


def test_the_command_says_where_the_units_are() -> None:
    """So that an installed package needs no checkout; they are all there."""
    folder = Path(peers("systemd").out.strip())
    assert {file.name for file in folder.iterdir()} == {
        "peers@.service", "peers.target", "peers.env.example",
    }  # fmt: skip
    assert peers("systemd", "extra").code == 2


def test_the_wheel_has_what_lies_beside_the_package() -> None:
    """Both folders are looked for inside the package first; a wheel puts them there."""
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert wheel["sources"] == {"sql": "peers/sql", "deploy": "peers/deploy"}
    assert set(wheel["only-include"]) == {"peers", *wheel["sources"]}
