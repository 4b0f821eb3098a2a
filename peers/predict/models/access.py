"""Read the headers and secrets that requests to an endpoint carry.

A run stores only where a secret is: a file, an environment variable, a credential of systemd. Each
worker reads it there, and reads it again when the endpoint says that it is not authorized.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from peers.predict.errors import ModelError
from peers.predict.spec import Access, Secret

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]+")
_SECRET_NAME: Final = re.compile(
    r"auth(?!or)|authoriz|cookie|token(?![si])|secret|password|passwd|credential|api-?_?key|signature|-key$|^key$",
    re.IGNORECASE,
)
_SECRET_VALUE: Final = re.compile(r"(bearer|basic|digest|negotiate)\s", re.IGNORECASE)
_OURS: Final = frozenset({"host", "content-type", "content-length", "transfer-encoding"})
_MOST_BYTES: Final = 64 << 10
_REMEDY: Final = (
    "Put it into a file that only the peers' account can read: --token-file for a bearer token, "
    "--header-file for lines of 'Name: value'."
)
_HIDDEN: Final = "***"
_MIN_SECRET_LENGTH: Final = 4


def access_of(
    headers: Sequence[str], header_file: str | None, token_file: str | None, token_env: str | None,
    token_credential: str | None,
) -> Access:  # fmt: skip
    """Return the access that the options describe. Raises ModelError for secrets in plain text."""
    secrets: list[Secret] = []
    if token_file is not None:
        secrets.append(Secret("file", _absolute(token_file), "token"))
    if token_env is not None:
        secrets.append(Secret("environment", token_env, "token"))
    if token_credential is not None:
        secrets.append(Secret("credential", _credential(token_credential), "token"))
    if len(secrets) > 1:
        raise ModelError(
            "an endpoint takes one bearer token",
            "Give one of --token-file, --token-env and --token-credential.",
        )
    if header_file is not None:
        secrets.append(Secret("file", _absolute(header_file), "headers"))
    return Access(_plain_headers(headers), tuple(secrets))


def _absolute(file: str) -> str:
    return str(Path(file).expanduser().absolute())


def _credential(name: str) -> str:
    if "/" in name or name in {".", ".."}:
        raise ModelError(f"--token-credential {name} is not a name of a systemd credential")
    return name


def _plain_headers(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    headers = [_header(line, "--header") for line in lines]
    for name, value in headers:
        if _SECRET_NAME.search(name) or _SECRET_VALUE.match(value):
            raise ModelError(
                f"--header {name} looks like a secret, which every user of this host could read on "
                "the command line, and which would be stored with the run",
                _REMEDY,
            )
    return tuple(headers)


def refuse_secret_query(url: str) -> None:
    """Raise ModelError if a parameter in the URL's query looks like a secret."""
    for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if _SECRET_NAME.search(name):
            raise ModelError(
                f"the parameter {name} of the model's URL looks like a secret, which would be "
                "stored with the run",
                "Leave it out. Most endpoints take it as a header as well: --token-file, or "
                "--header-file.",
            )


class Credentials:
    """The secrets of an endpoint, read when they are first needed."""

    def __init__(self, access: Access) -> None:
        self._secrets = access.secrets
        self._headers: dict[str, str] | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers with the secrets. Raises ModelError if one cannot be read."""
        if self._headers is None:
            self._headers = dict(header for one in self._secrets for header in _read(one))
        return self._headers

    def reread(self) -> bool:
        """Read the secrets again; return whether they have changed."""
        before, self._headers = self._headers, None
        return self.headers() != before

    def hidden(self, text: str) -> str:
        """Return the text with the secrets masked: an endpoint may repeat what it was sent.

        A value as short as a tenant's number is not a secret, and would occur in many messages.
        """
        for value in (self._headers or {}).values():
            for part in {value, *value.split()[1:]}:
                if len(part) >= _MIN_SECRET_LENGTH:
                    text = text.replace(part, _HIDDEN)
        return text


def _read(secret: Secret) -> list[tuple[str, str]]:
    text = _text(secret).strip()
    if not text:
        raise _unreadable(secret, "it is empty")
    if secret.holds == "headers":
        lines = [line for line in text.splitlines() if line.strip()]
        return [_header(line, f"line {at} of {secret.place}") for at, line in enumerate(lines, 1)]
    if not _VALUE.fullmatch(text):
        raise _unreadable(secret, "it is not one line of printable ASCII characters")
    return [("authorization", f"Bearer {text}")]


def _text(secret: Secret) -> str:
    if secret.stored_in == "environment":
        if secret.place not in os.environ:
            raise _unreadable(secret, "it is not set")
        return os.environ[secret.place]
    path = Path(secret.place)
    if secret.stored_in == "credential":
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise _unreadable(secret, "CREDENTIALS_DIRECTORY is not set: systemd has passed none")
        path = Path(folder) / secret.place
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES).decode()
    except OSError as error:
        raise _unreadable(secret, error.strerror or type(error).__name__) from error
    except UnicodeDecodeError:
        raise _unreadable(secret, "it is not UTF-8") from None


def _unreadable(secret: Secret, why: str) -> ModelError:
    return ModelError(
        f"the {secret.label} for the endpoint cannot be read: {why}",
        "This command and every worker of the peers must be able to read it.",
    )


def _header(line: str, where: str) -> tuple[str, str]:
    """Return name and value. Raises ModelError, whose message does not repeat the value."""
    name, colon, value = line.partition(":")
    name, value = name.strip().lower(), value.strip()
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ModelError(f"{where} is not a header", "Write it as 'Name: value', in ASCII.")
    if name in _OURS:
        raise ModelError(f"{where}: {name} is set by the request itself", "Leave it out.")
    return name, value
