"""Choose where the embedded Postgres keeps its data, its locks and its socket."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

from peers.embedded.accounts import ROOT, Account, server_account
from peers.embedded.errors import EmbeddedError
from peers.embedded.watchdog import Guarded

DATA_VARIABLE = "PEERS_EMBEDDED_DATA"
SUPERUSER = "postgres"
PORT = 5432
# A Unix socket's whole path, `FOLDER/.s.PGSQL.5432`, has to fit into 107 bytes.
SOCKET_FOLDER_BYTES = 107 - len(f"/.s.PGSQL.{PORT}")
# It exists on every host, and every process sees the same one. It is open to all users, as is
# LAST_RESORT, so we check that a folder in them is ours.
SHORT_FOLDER = Path("/tmp")  # noqa: S108
ROOT_HOME = Path("/var/lib/peers")
LAST_RESORT = Path("/var/tmp")  # noqa: S108
PRIVATE, PASSABLE = 0o700, 0o711


class Area:
    """The folder of one embedded server.

    It belongs to us; the data directory and the socket's folder belong to the server's account.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.data = self.root / "pgdata"
        self.gate = self.root / "gate.lock"
        self.log = self.root / "server.log"
        self.name = "peers-" + hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        self.guarded = Guarded(
            users=str(self.root / "users.lock"),
            watchdog=str(self.root / "watchdog.lock"),
            server=str(self.root / "server.lock"),
            data=str(self.data),
            title=self.name,
        )

    @property
    def sockets(self) -> Path:
        """The folder of the socket: in the area if that path is short and has no comma.

        libpq takes a comma in a host for the end of its name.
        """
        inside = os.fsencode(self.root / "run")
        if len(inside) <= SOCKET_FOLDER_BYTES and b"," not in inside:
            return self.root / "run"
        return SHORT_FOLDER / self.name

    def url(self, database: str) -> str:
        """Return the libpq URL of a database in the area's server, the same in every process."""
        # without a port, libpq would use PGPORT of the user's environment
        where = urlencode({"host": str(self.sockets), "port": PORT}, quote_via=quote, safe="")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?{where}"

    def fixed_settings(self) -> dict[str, str]:
        """Return the server settings that the area decides. Users cannot override them."""
        quoted = str(self.sockets).replace('"', '""')
        return {
            "cluster_name": self.guarded.title,
            "data_directory": self.guarded.data,
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": f'"{quoted}"',
        }

    def account(self) -> Account:
        """Return the account of this area's server. An existing data directory decides."""
        try:
            return server_account(self.data.stat().st_uid)
        except FileNotFoundError:
            return server_account()

    def create(self) -> None:
        """Make the area, or check that an existing one is usable."""
        try:
            make_folder(self.root, PASSABLE if os.geteuid() == ROOT else PRIVATE)
        except OSError as error:
            raise EmbeddedError(
                f"The embedded Postgres cannot keep its data in {self.root}: {error.strerror}. "
                f"Name another folder in {DATA_VARIABLE}."
            ) from error
        owner = self.root.stat().st_uid
        if owner != os.geteuid():
            raise EmbeddedError(
                f"The folder {self.root} belongs to another user (uid {owner}). "
                f"Run the command as that user, or name a folder of your own in {DATA_VARIABLE}."
            )
        account = self.account()
        if not account.can_enter(self.root):
            raise EmbeddedError(
                f"Postgres runs as {account.name} here, who cannot enter {self.root}: it or a "
                f"folder above it is closed to others. Name a folder in {DATA_VARIABLE} that "
                f"{account.name} can enter, such as one under /var/lib."
            )

    def create_sockets(self) -> None:
        """Make the socket's folder, and remove the remains of a crash. No server may run."""
        account, folder = self.account(), self.sockets
        folder.mkdir(PRIVATE, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), account.uid):
            raise EmbeddedError(
                f"{folder}, where the embedded Postgres needs its socket, belongs to another user "
                f"(uid {found.st_uid}). Remove it, or name a shorter folder in {DATA_VARIABLE}."
            )
        give(folder, account)
        for leftover in folder.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)


def default_area() -> Area:
    """Return the area that PEERS_EMBEDDED_DATA names, or `embedded` in our home."""
    named = os.environ.get(DATA_VARIABLE)
    return Area(Path(named)) if named else Area(home() / "embedded")


def home() -> Path:
    """Find the folder for everything that Peers keeps on this host. Make it if it is missing."""
    account = server_account()
    for folder in _possible_homes():
        if _usable(folder, account):
            return folder
    raise EmbeddedError(
        "The embedded Postgres found no folder for its data that it may write and that the user "
        f"{account.name} can reach, not even under {LAST_RESORT}. Name one in {DATA_VARIABLE}."
    )


def _possible_homes() -> Iterator[Path]:
    if os.geteuid() == ROOT:
        yield ROOT_HOME
    elif os.environ.get("XDG_DATA_HOME", "").startswith("/"):
        yield Path(os.environ["XDG_DATA_HOME"]) / "peers"
    elif os.environ.get("HOME", "").startswith("/"):
        yield Path(os.environ["HOME"]) / ".local/share/peers"
    yield LAST_RESORT / f"peers-{os.geteuid()}"


def _usable(folder: Path, account: Account) -> bool:
    try:
        make_folder(folder, PASSABLE if os.geteuid() == ROOT else PRIVATE)
        ours = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(ours.st_mode) or ours.st_uid != os.geteuid():
        return False
    return os.access(folder, os.W_OK) and account.can_enter(folder)


def temporary_folder() -> Path:
    """Make a folder for a throwaway server. The server's account can enter it."""
    account = server_account()
    usual = Path(tempfile.gettempdir())
    parent = usual if account.can_enter(usual) else LAST_RESORT
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=parent))
    folder.chmod(PASSABLE)
    return folder


def make_folder(folder: Path, mode: int) -> None:
    """Make the folder and its missing parents with this mode, whatever the umask."""
    for missing in reversed([folder, *folder.parents]):
        if not missing.exists():
            missing.mkdir(exist_ok=True)
            missing.chmod(mode)


def give(path: Path, account: Account) -> None:
    """Let the account own the path."""
    if account.uid != os.geteuid():
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
