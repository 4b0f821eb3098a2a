"""Parse, check and show the values of settings."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from typing import Final, NamedTuple

from pydantic import SecretStr, TypeAdapter, ValidationError

from peers.spans import format_span
from peers.types import NAME_MAX_LENGTH

SLOTS_MAX: Final = 10_000
MEMORY_MIN: Final = 16 << 20
"""Bytes. A worker needs about this much to start."""

LOOPBACK: Final = "127.0.0.1"
_ADDRESS: Final = re.compile(
    r"(?:(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):)?(?P<port>\d{1,5})(?P<next>\+?)"
)
_PORT_MAX: Final = 65_535
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS: Final = ("", "K", "M", "G", "T")
_PASSWORD_IN_URL: Final = re.compile(r"(//[^:/@]*:).*@")  # to the last @, to be on the safe side
_PASSWORD_OPTION: Final = re.compile(r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME: Final = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|COOKIE|DSN", re.IGNORECASE)
_HIDDEN: Final = "***"


class ListenAddress(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    or_next: bool
    """Take one of the following ports if this one is in use."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{'+' if self.or_next else ''}"


# ------------------------------------------------------------------------------------------ parsing


def size(value: object) -> object:
    """Parse bytes, "512M", "2G" or "1.5GiB" (powers of 1024). Return a number unchanged."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError('must be a size such as "512M" or "2G"')
    amount, unit = found.groups()
    return int(float(amount) * 1024 ** _SIZE_UNITS.index(unit.upper()))


def switch(value: object) -> object:
    """Parse "on", "off" and the other spellings that pydantic knows."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise ValueError('must be "on" or "off"') from None


def words(value: object) -> object:
    """Parse a list with commas, such as "0,1". Return a list unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(word for part in value.split(",") if (word := part.strip()))


def parse_queues(value: object) -> object:
    """Parse "default=8,media=2". Return a table unchanged."""
    if not isinstance(value, str):
        return value
    queues: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, slots = (piece.strip() for piece in part.partition("="))
        if not equals or not slots.isdecimal():
            raise ValueError(f'must look like "default=8,media=2"; "{part}" does not say its slots')
        if name in queues:
            raise ValueError(f'names the queue "{name}" twice')
        queues[name] = slots
    return queues


def parse_address(value: object) -> object:
    """Parse "9187" (on 127.0.0.1), "0.0.0.0:9187", "[::1]:9187", each with "+" for a later port."""
    if isinstance(value, ListenAddress):
        return value
    found = _ADDRESS.fullmatch(str(value).strip())
    if found is None or not 0 <= int(found["port"]) <= _PORT_MAX:
        raise ValueError(
            f'must be a port from 0 to {_PORT_MAX} such as "9187", or an address with a port such '
            'as "0.0.0.0:9187"; a "+" after it takes the next free port'
        )
    return ListenAddress(
        found["ipv6"] or found["host"] or LOOPBACK, int(found["port"]), or_next=bool(found["next"])
    )


def parse_variables(value: object) -> object:
    """Parse environment variables: NAME=VALUE, in the list of a flag, a line, or a table.

    A line is split like a shell's, so that quotes keep spaces: "A=1 B='two words'".
    """
    if isinstance(value, dict):
        return {name: _variable_text(name, each) for name, each in value.items()}
    if not isinstance(value, str | list | tuple):
        raise ValueError("must be a table of variables, such as {TZ = 'UTC'}")
    try:
        assignments = shlex.split(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("has a quote that is not closed; close it") from None
    variables: dict[str, str] = {}
    for assignment in map(str, assignments):
        name, equals, text = assignment.partition("=")
        if not equals:  # it may be part of a secret with a space in it: do not repeat it
            raise ValueError("must look like NAME=VALUE; quote a value that has spaces in it")
        variables[name] = text
    return variables


def _variable_text(name: object, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'gives {name} a value that is no text; write it in quotes: "1"')
    return str(value)


# ----------------------------------------------------------------------------------------- checking


def check_size(value: int) -> int:
    """Refuse less memory than a worker needs to start."""
    if value < MEMORY_MIN:
        raise ValueError("must be 16M or more")
    return value


def check_queues(queues: dict[str, int]) -> dict[str, int]:
    """Refuse a table without queues, and names and numbers of slots out of bounds."""
    if not queues:
        raise ValueError('must name at least one queue, such as "default=8"')
    for name, slots in queues.items():
        if not 1 <= len(name) <= NAME_MAX_LENGTH:
            raise ValueError(
                f"has a queue name of {len(name)} characters; use 1 to {NAME_MAX_LENGTH}"
            )
        if not 1 <= slots <= SLOTS_MAX:
            raise ValueError(f'gives queue "{name}" {slots} slots; use 1 to {SLOTS_MAX}')
    return queues


def check_variables(variables: dict[str, str]) -> dict[str, str]:
    """Refuse names and values that no environment can hold."""
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(
                f'has a variable named "{name}"; use letters, digits and _, not a digit first'
            )
        if "\0" in value:
            raise ValueError(f"gives {name} a value with a NUL character; remove it")
    return variables


def lower(value: object) -> object:
    """Return text in lower case, so that INFO means info."""
    return value.lower() if isinstance(value, str) else value


# ------------------------------------------------------------------------------------------ showing


def show(value: object) -> str:
    """Return a setting's value in the form in which it can be given, with secrets hidden."""
    if isinstance(value, timedelta):
        return format_span(value)
    if isinstance(value, ListenAddress):
        return str(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={slots}" for name, slots in value.items())
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, SecretStr):
        return redact(value.get_secret_value())
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def show_variables(variables: dict[str, str]) -> str:
    """Return environment variables as one line, with secrets hidden."""
    return join_variables(
        {
            name: _HIDDEN if _SECRET_NAME.search(name) else redact(value)
            for name, value in variables.items()
        }
    )


def join_variables(variables: dict[str, str]) -> str:
    """Return environment variables as one line that `parse_variables` reads."""
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


def redact(url: str) -> str:
    """Return the database URL without its passwords."""
    return _PASSWORD_OPTION.sub(rf"\1{_HIDDEN}", _PASSWORD_IN_URL.sub(rf"\1{_HIDDEN}@", url))
