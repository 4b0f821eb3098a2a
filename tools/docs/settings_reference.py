"""docs/settings.md: every setting, from the class that reads them."""

from __future__ import annotations

from typing import Final

from peers.settings import reference
from tools.docs.markdown import code, notice, table

_INTRODUCTION: Final = """
# Settings

A setting has one name in four places. The first place that has a value wins:

1. a flag of the command: `--lease-timeout 30s`;
2. an environment variable: `PEERS_LEASE_TIMEOUT=30s`;
3. a systemd credential with the name of the variable (in `$CREDENTIALS_DIRECTORY`);
4. a line of `/etc/peers/peers.toml`, or of the file that `--config` names: `lease_timeout = "30s"`.

A duration is a number with a unit (`500ms`, `30s`, `2m`, `1h30m`, `30d`, `2w`, `1 hour`), a number
of seconds, or ISO 8601 (`PT30S`). Options of commands and functions of Python take the same texts.
A size is `512M` or `2G`.

An unknown `PEERS_…` variable is an error, so that a misspelt one is not ignored. (Variables of an
installed guest, such as `PEERS_PREDICT_…`, and those that `PEERS_WORKER_ENV` names are for the
workers.) `peers config` prints the effective settings and says where each value comes from; it
hides passwords.

`PEERS_EMBEDDED_DATA` is only an environment variable, not a setting of the file or a flag: it names
the folder of the embedded database (`--embedded`, `peers demo`, `peers db`). The default is
`/var/lib/peers/embedded` for root and `~/.local/share/peers/embedded` for other users. All
processes that name the same folder share the database.

"""


def page() -> str:
    """Return the page."""
    rows = [
        (
            code(each.variable),
            code(each.placeholder),
            _default(each.default),
            each.bounds,
            each.description,
        )
        for each in reference()
    ]
    head = ("variable", "value", "default", "bounds", "meaning")
    return notice("peers/settings") + _INTRODUCTION + table(head, rows)


def _default(text: str) -> str:
    """Return a default that has angle brackets as code: in Markdown they would begin a tag."""
    return code(text) if "<" in text else text
