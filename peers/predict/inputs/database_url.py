"""Convert the URL of a database to libpq's form, and hide its passwords in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from peers.predict.errors import InputError

_DRIVER: Final = re.compile(r"^postgres(ql)?(\+\w+)?://")
"""The driver in SQLAlchemy's URLs, which libpq does not know."""
_SECRET: Final = re.compile("password|secret|key$")
_HIDDEN: Final = "***"
_PLACES: Final = ("user", "password", "host", "hostaddr", "port", "dbname")


def conninfo_of(url: str) -> str:
    """Return the URL in libpq's form: it may have several hosts, a service or nothing at all.

    Raises InputError, which does not show the URL: any part of it may be the password.
    """
    plain = _DRIVER.sub("postgresql://", url, count=1)
    _parsed(plain)
    return plain


def hidden(url: str) -> str:
    """Return the URL with *** for each password in it. Raises InputError."""
    found = _parsed(_DRIVER.sub("postgresql://", url, count=1))
    user = quote(found.get("user", ""), safe="")
    if "password" in found:
        user += f":{_HIDDEN}"
    hosts = found.get("host", "").split(",")
    ports = found.get("port", "").split(",")
    ports *= len(hosts) if len(ports) == 1 else 1
    others = {
        key: _HIDDEN if _SECRET.search(key) else value
        for key, value in found.items()
        if key not in _PLACES
    }
    if "hostaddr" in found:
        others["hostaddr"] = found["hostaddr"]
    if any("/" in host for host in hosts):  # a socket's folder can only be a parameter
        others |= {"host": found["host"], "port": found.get("port", "")}
        place = ""
    else:
        place = ",".join(map(_with_port, hosts, ports))
    query = urlencode({key: value for key, value in others.items() if value}, safe="*/,")
    return (
        f"postgresql://{user}{'@' if user else ''}{place}/{quote(found.get('dbname', ''))}"
        f"{'?' if query else ''}{query}"
    )


def _with_port(host: str, port: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name


def _parsed(url: str) -> dict[str, str]:
    import psycopg  # imported here, since the workers do not need it
    from psycopg.conninfo import conninfo_to_dict

    found: dict[str, str] | None
    try:
        found = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except psycopg.Error:  # the error's text may contain the password
        found = None
    if found is None or _DRIVER.match(url) is None or not _is_plausible(found):
        raise InputError(
            "the input is not the URL of a database",
            "Write postgresql://user@host:5432/database; an @ in a password is written %40.",
        )
    return found


def _is_plausible(found: Mapping[str, str]) -> bool:
    """Return whether no part of a password has become a part of the host or the port."""
    return "@" not in found.get("host", "") and not re.search(r"[^\d,]", found.get("port", ""))
