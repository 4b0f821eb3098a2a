"""deploy/systemd/peers.env.example and peers.toml.example: every setting, explained."""

from __future__ import annotations

import json
import textwrap
from typing import Final

from peers.predict.variables import VARIABLES
from peers.settings import SettingReference, Settings, reference
from peers.settings.values import join_variables, show

_DATABASE: Final = "postgresql://peers@db.example.com:5432/shop"
_EXAMPLES: Final[dict[str, object]] = {
    "database_url": _DATABASE,
    "listen_url": _DATABASE,
    "app": "shop.tasks",
    "queues": {"default": 4, "media": 1},
    "heartbeat_interval": "10s",
    "keep_completed": "30d",
    "keep_dead": "90d",
    "metrics_listen": "127.0.0.1:9187",
    "worker_threads": 1,
    "worker_max_tasks": 10_000,
    "worker_max_memory": "2G",
    "worker_env": {"TZ": "UTC", "GREETING": "two words"},
    "gpus": ("0", "1"),
}
"""An example for each setting whose default cannot be written into a file."""

_OF_GUESTS: Final = {
    "PEERS_PREDICT_TRUST": "/srv/models,shop.models",
    "PEERS_PREDICT_BATCH_WAIT": "50ms",
}
_SET: Final = ("app", "queues")
"""The settings that every host needs. The others are comments."""

_WIDTH: Final = 98

_ENVIRONMENT: Final = """\
# Copy this file to /etc/peers/peers.env: install -m 640 -g peers
# The peers of this host read it when they start. /etc/peers/peers-1.env, for peers@1 alone, wins.
# A line that begins with # is a comment. Where a default is a value, the line shows it.
# Put a database URL with a password into /etc/credstore/peers_database_url (mode 600) instead.
"""
_TOML: Final = """\
# Copy this file to /etc/peers/peers.toml: install -m 640 -g peers
# All commands read it, peers too. Variables (peers.env), credentials and flags win over it.
# A line that begins with # is a comment. Where a default is a value, the line shows it.
"""


def environment() -> str:
    """Return the example of an environment file."""
    settings = [_entry(each, f"{each.variable}={_shell(_value(each))}") for each in reference()]
    guests = [
        f"{_comment(f'Predictions: {VARIABLES[name]}.')}\n#{name}={_OF_GUESTS[name]}"
        for name in VARIABLES
    ]
    return "\n\n".join([_ENVIRONMENT.rstrip(), *settings, *guests]) + "\n"


def toml() -> str:
    """Return the example of a configuration file."""
    settings = [_entry(each, f"{each.name} = {_toml(_value(each))}") for each in reference()]
    return "\n\n".join([_TOML.rstrip(), *settings]) + "\n"


def _entry(setting: SettingReference, line: str) -> str:
    bounds = f"{setting.bounds}. " if setting.bounds else ""
    meaning = f"{setting.description[0].upper()}{setting.description[1:]}. {bounds}"
    mark = "" if setting.name in _SET else "#"
    return f"{_comment(f'{meaning}Default: {setting.default}.')}\n{mark}{line}"


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def _value(setting: SettingReference) -> object:
    """Return the default, or the example of a setting whose default is described in words."""
    if setting.name in _EXAMPLES:
        return _EXAMPLES[setting.name]
    default = Settings.model_fields[setting.name].default
    assert show(default) == setting.default or isinstance(default, bool), (
        f"give {setting.name} an example in tools/docs/settings_examples.py"
    )
    return default


def _shell(value: object) -> str:
    """Return the value as in a line of systemd's EnvironmentFile=."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return f'"{join_variables(value)}"'
    return value if isinstance(value, str) else show(value)


def _toml(value: object) -> str:
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
    return json.dumps(value if isinstance(value, str) else show(value))
