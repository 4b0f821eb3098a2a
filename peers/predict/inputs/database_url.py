"""The URL of a database, as libpq reads it, and without its passwords for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from peers.predict.errors import InputError

_DRIVER: Final = re.compile(r"^postgres(ql)?(\+\w+)?://")
"""SQLAlchemy's URLs name a driver, which libpq does not know."""
_SECRET: Final = re.compile("password|secret|key$")
_HIDDEN: Final = "***"
_PLACES: Final = ("user", "password", "host", "hostaddr", "port", "dbname")


def conninfo_of(url: str) -> str:
    """Return the URL as libpq takes it: it may have several hosts, a service or nothing at all.

    Raises InputError, which says nothing of the URL: a part of the password may stand anywhere.
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
    if any("/" in host for host in hosts):  # a socket's folder has no place in a URL but here
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
    import psycopg  # not in each worker: they only read what was asked here
    from psycopg.conninfo import conninfo_to_dict

    found: dict[str, str] | None
    try:
        found = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except psycopg.Error:  # whose sentence may hold the password
        found = None
    if found is None or _DRIVER.match(url) is None or not _is_plausible(found):
        raise InputError(
            "the input is no URL of a database",
            "Write postgresql://user@host:5432/database; an @ in a password is written %40.",
        )
    return found


def _is_plausible(found: Mapping[str, str]) -> bool:
    """Return whether no part of a password has become a part of the host or the port."""
    return "@" not in found.get("host", "") and not re.search(r"[^\d,]", found.get("port", ""))
