"""How the command line starts: closed standard streams, and Ctrl-C before it is ready."""

from __future__ import annotations

import itertools
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from peers.cli import GROUPS, load
from peers.cli.parser import Parser
from tests.support.cli import PATIENCE, PROJECT, command, environment, join, state, submit, until

if TYPE_CHECKING:
    from tests.support.server import Connection

CLOSED = [
    streams
    for count in (1, 2, 3)
    for streams in itertools.combinations(["<&-", ">&-", "2>&-"], count)
]


def with_closed(streams: tuple[str, ...], *words: str) -> list[str]:
    """What to run for `peers WORDS`, its standard streams closed as a shell does it."""
    return ["/bin/sh", "-c", " ".join(['exec "$@"', *streams]), "sh", *command(*words)]


@pytest.mark.parametrize("streams", CLOSED, ids=" ".join)
def test_commands_do_their_work_with_closed_streams(
    database_url: str, db: Connection, streams: tuple[str, ...]
) -> None:
    """The task is submitted, nothing is complained about, and the result goes where it can."""
    join(db, "a")
    done = subprocess.run(
        with_closed(streams, "submit", "a"), env=environment(database_url), capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    [row] = db.execute("select id from peers.task").fetchall()
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == ("" if ">&-" in streams else f"{row['id']}\n")


@pytest.mark.parametrize("streams", [("2>&-",), CLOSED[-1]], ids=" ".join)
def test_an_error_is_an_exit_code_with_closed_streams(
    database_url: str, streams: tuple[str, ...]
) -> None:
    """There is no place for its words."""
    wrong = subprocess.run(
        with_closed(streams, "explain", "77"), env=environment(database_url), capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (4, b"", b"")


def test_a_peer_runs_with_all_streams_closed(
    database_url: str, db: Connection, tmp_path: Path
) -> None:
    """Nothing that it or its workers print goes into a connection that got the same number."""
    (tmp_path / "shop.py").write_text(
        "import sys\nfrom peers import task\n\n@task('prints')\ndef prints() -> None:\n"
        "    print('x' * 10_000, flush=True)\n    print('x' * 10_000, file=sys.stderr)\n"
    )
    task = submit(db, "prints")
    peer = subprocess.Popen(
        with_closed(CLOSED[-1], "run", "--app", "shop", "--queues", "default=1"),
        env=environment(database_url), cwd=tmp_path,
    )  # fmt: skip
    try:
        until(lambda: state(db, task) == "completed" or peer.poll() is not None, "the task")
        peer.send_signal(signal.SIGTERM)
        assert peer.wait(PATIENCE) == 0
    finally:
        peer.kill()
        peer.wait()
    assert state(db, task) == "completed"


INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
sys.argv = ["peers", "config"]
{start}
"""
STARTS = {
    "python -m peers": "runpy.run_module('peers', run_name='__main__')",
    "peers": "from peers.__main__ import main; sys.exit(main())",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "module", ["peers.cli", "psycopg", "pydantic_core", "pydantic_settings", "peers.cli.admin"]
)
def test_ctrl_c_while_it_loads_is_quiet(module: str, start: str) -> None:
    """Exit code 130 and no traceback, whatever is being imported."""
    script = INTERRUPTED.format(module=module, start=STARTS[start])
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """As under nohup, or behind & in a script."""
    script = INTERRUPTED.format(module="psycopg", start=STARTS["peers"])
    words = f"trap '' INT; exec {shlex.join([sys.executable, '-c', script])}"
    done = subprocess.run(
        ["/bin/sh", "-c", words], env=environment(), capture_output=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"lease_timeout" in done.stdout


def test_the_command_loads_nothing_before_it_is_ready_for_ctrl_c() -> None:
    """The installed command starts in a module that only knows the standard library."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"peers": "peers.__main__:main"}
    script = (
        "import sys; before = set(sys.modules); import peers.__main__;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True,
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) <= {"peers", *sys.stdlib_module_names}


def test_what_starts_often_imports_little() -> None:
    """`peers --version` imports no command, and `peers submit` nothing that only handlers need."""
    script = "import sys\nfrom peers.cli import main\n{}\nprint(*sys.modules)"

    def imported(call: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", script.format(call)], env=environment(), capture_output=True,
            text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
        return set(done.stdout.split())

    assert not imported("from contextlib import suppress\nwith suppress(SystemExit):"
                        " main(['--version'])") & {"psycopg", "pydantic", "msgspec"}  # fmt: skip
    assert not imported("import peers.cli.submit") & {"msgspec", "peers.handlers", "sqlalchemy"}
    assert "psycopg" not in imported("import peers.cli.run")


def test_the_public_names_are_all_there() -> None:
    """They are imported when they are asked for; no other name is."""
    import peers

    for name in peers.__all__:
        assert getattr(peers, name) is not None
    assert set(peers.__all__) <= set(dir(peers))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = peers.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize("group", GROUPS)
def test_a_command_is_found_in_the_module_that_declares_it(group: str) -> None:
    """Only that module is imported when the command is typed."""
    parser = Parser()
    commands = parser.add_subparsers()
    options: dict[str, Any] = {"words": []} if group == "predict" else {}
    load([GROUPS[group][0]])[group].register(commands, **options)
    assert tuple(commands.choices) == GROUPS[group]
