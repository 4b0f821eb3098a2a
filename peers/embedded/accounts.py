"""Choose the account that the server runs as: Postgres refuses to run as root."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from peers.embedded.errors import EmbeddedError

ROOT = 0
PREFERRED_ACCOUNTS = ("postgres", "nobody")

# The environment of the server and its tools. It has no locale that may not be installed, none of
# libpq's variables, and no user's time zone.
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class Account(NamedTuple):
    """An operating system user."""

    name: str
    uid: int
    gid: int

    def identity(self) -> dict[str, Any]:
        """Return the subprocess options to run as this account with a clean environment, from `/`.

        The account may not be able to enter the caller's folder.
        """
        options: dict[str, Any] = {"cwd": "/", "env": CLEAN_ENVIRONMENT}
        if self.uid != os.geteuid():
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def can(self, command: list[str]) -> bool:
        """Return whether this account can run the command and it succeeds."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                **self.identity(),
            )
        except OSError:
            return False
        return done.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """Return whether this account may enter the folder and each one above it."""
        return self.can(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])


def server_account(owner: int | None = None) -> Account:
    """Choose the account of the server: our own, or for root an existing ordinary user.

    `owner` is the uid of an existing data directory, which decides for root.
    """
    if os.geteuid() != ROOT:
        return Account(_name_of(os.geteuid()), os.geteuid(), os.getegid())
    for account in _ordinary_accounts(owner):
        if account.can(["/bin/sh", "-c", "exit 0"]):
            return account
    raise EmbeddedError(
        "Postgres refuses to run as root, and root cannot become any ordinary user here "
        f"({', '.join(PREFERRED_ACCOUNTS)} or another of /etc/passwd). "
        "Run the command as an ordinary user, or name a database in PEERS_DATABASE_URL."
    )


def _ordinary_accounts(owner: int | None) -> Iterator[Account]:
    if owner is not None and owner != ROOT:
        yield _account_of(owner)
        return
    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != ROOT]
    # a stable sort: the preferred names first, the rest in the order of the file
    entries.sort(key=lambda entry: _preference(entry.pw_name))
    for entry in entries:
        yield Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _preference(name: str) -> int:
    known = name in PREFERRED_ACCOUNTS
    return PREFERRED_ACCOUNTS.index(name) if known else len(PREFERRED_ACCOUNTS)


def _account_of(uid: int) -> Account:
    try:
        return Account(_name_of(uid), uid, pwd.getpwuid(uid).pw_gid)
    except KeyError:
        return Account(_name_of(uid), uid, uid)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
