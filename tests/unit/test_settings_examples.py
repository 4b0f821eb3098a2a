"""deploy/systemd/peers.env.example and peers.toml.example: every setting, and they load."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest

from peers.predict.variables import VARIABLES
from peers.settings import Settings, reference, sources
from tests.support.cli import PROJECT
from tools.docs import settings_examples

if TYPE_CHECKING:
    from pathlib import Path

    from peers.settings import SettingReference

FOLDER = PROJECT / "deploy" / "systemd"
ENVIRONMENT = FOLDER / "peers.env.example"
TOML = FOLDER / "peers.toml.example"
AGAIN = "out of date: run `python -m tools.docs`"


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PEERS_", "PG")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setattr(sources, "CONFIG_FILE", tmp_path / "absent.toml")


def test_the_examples_are_up_to_date() -> None:
    """They are what the settings' own descriptions say."""
    assert ENVIRONMENT.read_text() == settings_examples.environment(), AGAIN
    assert TOML.read_text() == settings_examples.toml(), AGAIN


@pytest.mark.parametrize("setting", reference(), ids=lambda setting: setting.name)
def test_each_setting_is_explained_with_its_default(setting: SettingReference) -> None:
    """In both files: what it means, its default, and a line to uncomment."""
    for file, start in ((ENVIRONMENT, f"{setting.variable}="), (TOML, f"{setting.name} = ")):
        [block] = [
            block for block in file.read_text().split("\n\n")
            if block.splitlines()[-1].removeprefix("#").startswith(start)
        ]  # fmt: skip
        explanation = " ".join(line.removeprefix("# ") for line in block.splitlines()[:-1])
        assert setting.description.lower() in explanation.lower()
        assert explanation.endswith(f"Default: {setting.default}.")


def test_the_environment_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with every line that is a setting uncommented."""
    for name, value in _variables(uncommented=False).items():
        monkeypatch.setenv(name, value)
    assert (Settings().app, Settings().queues) == ("shop.tasks", {"default": 4, "media": 1})
    for name, value in _variables(uncommented=True).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.worker_env == {"TZ": "UTC", "GREETING": "two words"}
    names = {setting.variable for setting in reference()} | set(VARIABLES)
    assert set(_variables(uncommented=True)) == names


def test_the_toml_example_loads(tmp_path: Path) -> None:
    """As it is, and with every line that is a setting uncommented."""
    assert Settings(config=TOML).app == "shop.tasks"
    everything = tmp_path / "peers.toml"
    everything.write_text(
        "\n".join(line if line.startswith("# ") else line.removeprefix("#")
                  for line in TOML.read_text().splitlines())
    )  # fmt: skip
    settings = Settings(config=everything)
    assert all(each.origin == str(everything) for each in settings.origins())
    assert settings.worker_env == {"TZ": "UTC", "GREETING": "two words"}


def test_both_examples_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setting has the same value in both."""
    everything = tmp_path / "peers.toml"
    everything.write_text(
        "\n".join(line for line in TOML.read_text().replace("\n#", "\n").splitlines()
                  if " = " in line and not line.startswith(" "))
    )  # fmt: skip
    in_file = Settings(config=everything)
    for name, value in _variables(uncommented=True).items():
        monkeypatch.setenv(name, value)
    assert Settings().model_dump() == in_file.model_dump()


def _variables(*, uncommented: bool) -> dict[str, str]:
    """Return the variables as systemd reads them from the file."""
    found = {}
    for line in ENVIRONMENT.read_text().splitlines():
        text = line.removeprefix("#") if uncommented else line
        if text.startswith("PEERS_"):
            name, _, value = text.partition("=")
            [found[name]] = shlex.split(value)
    return found
