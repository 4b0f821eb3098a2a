"""Read the sources of settings, and explain values that cannot be used."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic_settings import EnvSettingsSource, SecretsSettingsSource

from peers.errors import ConfigError
from peers.settings.values import show

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic import ValidationError
    from pydantic_settings import BaseSettings

CONFIG_FILE: Final = Path("/etc/peers/peers.toml")
PREFIX: Final = "PEERS_"
_OF_OTHERS: Final = ("PEERS_TEST_", "PEERS_EMBEDDED_")
_SECRET: Final = ("database_url", "listen_url", "worker_env")
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


def variable(field: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + field.upper()


def _did_you_mean(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"Did you mean {nearest[0]}? Known are {', '.join(known)}."


def refuse_unknown_variables(settings: type[BaseSettings], worker_env: Collection[str]) -> None:
    """Refuse a PEERS_ variable that nothing reads: it is probably misspelt.

    Variables of a guest and those that `worker_env` names are for the workers.
    Raises ConfigError.
    """
    known = [variable(field) for field in settings.model_fields]
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name in known or name in worker_env:
            continue
        if name.startswith(_OF_OTHERS) or _OF_SERVICES.fullmatch(f"{name}={os.environ[name]}"):
            continue
        of_guest = _variables_of_guest(name)
        if name not in of_guest:
            raise ConfigError(
                f"the environment variable {name} is no setting of Peers",
                _did_you_mean(name, of_guest or known),
            )


def _variables_of_guest(name: str) -> Collection[str]:
    """Return the variables that the guest with this variable's prefix reads.

    A guest is a package peers.<guest> on top of the scheduler. Its module `variables` names what it
    reads from the environment of workers: PEERS_<GUEST>_….
    """
    guest = name.removeprefix(PREFIX).partition("_")[0].lower()
    try:
        found: Mapping[str, str] = importlib.import_module(f"peers.{guest}.variables").VARIABLES
    except ImportError:
        return ()
    return found


def gather(
    settings: type[BaseSettings], config: Path | None, flags: dict[str, object]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return each field's raw value from the first source that has one, and that source's name."""
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
                origins[name] = variable(name) if origin == "environment" else origin
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
        raise ConfigError(
            f"the configuration file {file} cannot be read: {error}",
            "Make it readable for this user, and correct its TOML.",
        ) from error
    for name in found:
        if name not in fields:
            raise ConfigError(
                f'"{name}" in {file} is no setting of Peers', _did_you_mean(name, fields)
            )
    return found


def explain(
    error: ValidationError,
    settings: type[BaseSettings],
    values: dict[str, Any],
    origins: dict[str, str],
) -> ConfigError:
    """Return the first error as a sentence. It shows the value unless that may be a secret."""
    first = error.errors(include_url=False)[0]
    reason = str(first.get("ctx", {}).get("error", first["msg"][:1].lower() + first["msg"][1:]))
    if not first["loc"]:  # an error about several settings names them itself
        return ConfigError(reason)
    name = str(first["loc"][0])
    if name not in settings.model_fields:
        return ConfigError(
            f'"{name}" is no setting of Peers', _did_you_mean(name, settings.model_fields)
        )
    shown = "***" if name in _SECRET else show(values.get(name))
    reason = reason.replace("input should", "must")
    return ConfigError(
        f'{name} is "{shown}" ({origins.get(name, "default")}): {reason}',
        "Correct the value, or remove it to use the default.",
    )
