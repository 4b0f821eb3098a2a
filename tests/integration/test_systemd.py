"""The units of deploy/systemd, read by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.cli import PROJECT, peers

UNITS = PROJECT / "deploy" / "systemd"
SERVICES = ("peers@.service", "peers-migrate.service")
EXPOSURE_MAX = 2.5

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


@needs_systemd
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` passes and says nothing, with a command in the place of ours."""
    for name in SERVICES:
        service = (UNITS / name).read_text()
        assert "ExecStart=/opt/peers/bin/peers " in service
        named = tmp_path / name.replace("@", "@1")
        named.write_text(service.replace("/opt/peers/bin/peers", "/bin/true"))
    shutil.copy(UNITS / "peers.target", tmp_path)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_the_units_are_hardened(name: str) -> None:
    """`systemd-analyze security` scores them 2.5 or better (0 is best, 10 is worst)."""
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", scored.stdout)
    assert found is not None, scored.stdout + scored.stderr
    assert float(found[1]) <= EXPOSURE_MAX


def test_the_command_says_where_the_files_are() -> None:
    """So that an installed package needs no checkout; they are all there."""
    folder = Path(peers("deploy", "systemd").out.strip())
    assert {file.name for file in folder.iterdir()} == {
        *SERVICES, "peers.target", "peers.env.example", "peers.toml.example",
    }  # fmt: skip
    assert Path(peers("deploy").out.strip()) == folder.parent
    assert peers("deploy", "openrc").code == 2
    assert peers("deploy", "systemd", "extra").code == 2


def test_the_wheel_has_what_lies_beside_the_package() -> None:
    """Both folders are looked for inside the package first; a wheel puts them there."""
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert wheel["sources"] == {"sql": "peers/sql", "deploy": "peers/deploy"}
    assert set(wheel["only-include"]) == {"peers", *wheel["sources"]}
