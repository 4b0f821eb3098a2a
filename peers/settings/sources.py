"""Where settings come from, and what is said when they cannot be used."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic_settings import EnvSettingsSource, SecretsSettingsSource

from peers.errors import ConfigError
from peers.settings.values import show

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_settings import BaseSettings

CONFIG_FILE: Final = Path("/etc/peers/peers.toml")
PREFIX: Final = "PEERS_"
_OF_OTHERS: Final = ("PEERS_TEST_", "PEERS_EMBEDDED_")
# What Kubernetes sets for a Service named peers (or peers-db), and Docker for a link of that name.
_OF_SERVICES: Final = re.compile(
    r"""PEERS_(?:[A-Z0-9_]+_)?(?:
        SERVICE_HOST=.*
      | SERVICE_PORT(?:_[A-Z0-9_]+)?=\d+
      | PORT(?:_\d+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://.*
      | PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|ADDR|PORT|PORT_START|PORT_END)=.*
      | NAME=/.*
      | ENV_.*
    )""",
    re.VERBOSE | re.DOTALL,
)


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _did_you_mean(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"Did you mean {nearest[0]}? Known are {', '.join(known)}."


def refuse_unknown_variables(fields: list[str]) -> None:
    """Raises ConfigError for a PEERS_ variable that nobody would read."""
    known = [_variable(field) for field in fields]
    for name in sorted(os.environ):
        of_others = name.startswith(_OF_OTHERS) or _OF_SERVICES.fullmatch(
            f"{name}={os.environ[name]}"
        )
        if name.startswith(PREFIX) and name not in known and not of_others:
            raise ConfigError(
                f"the environment variable {name} is no setting of Peers",
                _did_you_mean(name, known),
            )


def gather(
    settings: type[BaseSettings], config: Path | None, flags: dict[str, object]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The raw value of each field from the first source that has one, and that source's name."""
    given = {name: value for name, value in flags.items() if value is not None}
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    sources: list[tuple[str, dict[str, Any]]] = [
        ("flag", given),
        ("environment", EnvSettingsSource(settings, env_ignore_empty=True)()),
    ]
    if credentials and Path(credentials).is_dir():
        source = SecretsSettingsSource(settings, secrets_dir=credentials)
        sources.append(("systemd credential", source()))
    sources.append((str(config or CONFIG_FILE), _read(list(settings.model_fields), config)))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, found in sources:
        for name, value in found.items():
            if name not in values:
                values[name] = value
                origins[name] = f"{_variable(name)}" if origin == "environment" else origin
    return values, origins


def _read(fields: list[str], config: Path | None) -> dict[str, Any]:
    file = config or CONFIG_FILE
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if config is None:
            return {}
        raise ConfigError(f"there is no configuration file {file}", "Correct --config.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error}") from error
    for name in found:
        if name not in fields:
            raise ConfigError(
                f'"{name}" in {file} is no setting of Peers', _did_you_mean(name, fields)
            )
    return found


def sentence(
    error: ValidationError, fields: list[str], values: dict[str, Any], origins: dict[str, str]
) -> ConfigError:
    """The first complaint, in words; the value is shown unless it is a secret."""
    first = error.errors(include_url=False)[0]
    reason = str(first.get("ctx", {}).get("error", first["msg"][:1].lower() + first["msg"][1:]))
    if not first["loc"]:  # a complaint about several settings names them itself
        return ConfigError(reason)
    name = str(first["loc"][0])
    if name not in fields:
        return ConfigError(
            f'"{name}" is no setting of Peers',
            _did_you_mean(name, fields),
        )
    shown = "***" if name == "database_url" else show(values.get(name))
    reason = reason.replace("input should", "must")
    return ConfigError(f'{name} is "{shown}" ({origins.get(name, "default")}): {reason}')
