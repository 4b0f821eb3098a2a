"""Bad input and bad luck: one sentence with the remedy, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from peers.cli import main
from tests.support.cli import PATIENCE, PROJECT, Answer, command, environment, peers, submit, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.server import Connection

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"  # nothing listens on port 1
RUN = ["run", "--app", "json", "--log-format", "text"]


def complains(found: Answer, code: int, *parts: str) -> None:
    """It says so on stderr, in our form, and nothing on stdout."""
    assert found.code == code, found
    assert found.out == ""
    assert found.err.startswith("peers: ")
    assert "Traceback" not in found.err
    for part in parts:
        assert part in found.err


PREDICT = ["predict", "--model", "m:f", "--input", "status", "--output", "o.csv", "--run", "status"]


# --------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["frobnicate"], ["invalid choice", "peers --help"]),
        (["staus"], ["invalid choice", "Did you mean status?"]),
        (["dead", "retyr"], ["invalid choice", "Did you mean retry?"]),
        (["schedule", "add", "s", "a", "--every", "1h", "--misfire", "lastest"], ["mean latest?"]),
        (["submit", "a", "--qeue", "mail"], ["unknown argument: --qeue", "mean --queue?"]),
        (["status", "--frob"], ["unknown argument: --frob", "peers status --help"]),
        (["status", "extra"], ["unknown argument: extra"]),
        (["explain", "abc"], ["a task id is a number", '"abc"']),
        (["explain", "9" * 30], ["a task id is a number"]),
        (["submit", "a", "novalue"], ['"novalue" is not key=value', "peers submit --help"]),
        (["submit", "a", "x=1", "x=2"], ['"x" is given twice']),
        (["submit", "a", "--unique-while", "never"], ['"waiting", "unfinished" or a duration']),
        (["schedule", "add", "s", "a", "--every", "1m", "x=1", "x=2"], ['"x" is given twice']),
        (["submit", "a", "--args", "[1]"], ["must be a JSON object"]),
        (["submit", "a", "--args", "{"], ["is not JSON"]),
        (["submit", ""], ["1 to 200 characters, not 0"]),
        (["submit", "a", "--in", "soon"], ["must be a duration", '"soon"']),
        (["submit", "a", "--at", "noon"], ["must be a time", '"noon"']),
        (["submit", "a", "--in", "1s", "--at", "2026-11-23"], ["not allowed with"]),
        (["change", "1"], ["name what to change"]),
        (
            ["dead", "retry"],
            ["in one way: ids, or options such as --kind KIND and --graph ID, or --all"],
        ),
        (
            ["dead", "retry", "1", "--all"],
            ["in one way: ids, or options such as --kind KIND and --graph ID, or --all"],
        ),
        (["dead", "retry", "--all", "--graph", "1"], ["in one way"]),
        (["dead"], ["required: COMMAND"]),
        (["graph", "show", "9" * 30], ["a graph id is a number"]),
        (["graph", "pause", ""], ["1 to 200 characters, not 0"]),
        (["submit", "a", "--graph", "nightly"], ["a graph id is a number", '"nightly"']),
        (["prune"], ["--keep-completed 30d"]),
        (["predict", "--model", "m:f"], ["--input", "--output", "required"]),
        (["predict", "status"], ["NAME", "required"]),
        ([*PREDICT, "--batch-size", "0"], ["--batch-size", "1 or more"]),
        ([*PREDICT, "--timeout", "0s"], ["--timeout", "longer than 0"]),
        ([*PREDICT, "--timeout", "soon"], ["--timeout", "must be a duration"]),
        ([*PREDICT, "--batch-wait", "5s"], ["--batch-wait", "0 to 4 s"]),
        ([*PREDICT, "--max-dead", "-1"], ["--max-dead"]),
        ([*PREDICT, "--concurrency", "0"], ["--concurrency", "1 or more"]),
        (["status", "--database-url", ""], ["must not be empty"]),
        (["status", "--embedded", "--database-url", NOWHERE], ["not allowed with"]),
    ],
)
def test_wrong_usage_is_exit_code_2(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The argument is named, and how to get help; no database is needed to find out."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert isinstance(ended.value.code, int)
    complains(Answer(ended.value.code, *capsys.readouterr()), 2, *parts, "--help` shows how")


def test_no_command_at_all_shows_the_help() -> None:
    """A newcomer sees what there is, on stderr."""
    found = peers()
    assert (found.code, found.out) == (2, "")
    assert "peers demo" in found.err


# --------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "words",
    [
        ["status"], ["explain", "1"], ["submit", "a"], ["cancel", "1"], ["check"], ["migrate"],
        ["dead", "list"], RUN,
    ],
)  # fmt: skip
def test_without_a_database_nothing_is_done(words: list[str]) -> None:
    """Nobody submits into a private database unaware."""
    complains(peers(*words), 78, "no database is configured", "PEERS_EMBEDDED=1", "--embedded")


def test_an_unknown_variable_is_named() -> None:
    """A typo is an error, with the setting that was probably meant."""
    complains(
        peers("status", url=NOWHERE, env={"PEERS_LEASE_TIMOUT": "5s"}),
        78, "PEERS_LEASE_TIMOUT", "Did you mean PEERS_LEASE_TIMEOUT?",
    )  # fmt: skip


def test_a_wrong_setting_names_itself_and_its_bound() -> None:
    """The flag of `run` is checked before anything is done."""
    found = peers(*RUN, "--lease-timeout", "0s", url=NOWHERE)
    complains(found, 78, 'lease_timeout is "0s" (flag)', "must be 1s to 1d")


@pytest.mark.parametrize(
    ("words", "env", "code"),
    [
        (["--lease-timeout", "0s"], {}, 78),
        ([], {"PEERS_LOG_FORMAT": "json", "PEERS_NONSENSE": "1"}, 78),
        (["--app", "json", "--log-format", "json"], {}, 3),
        (["--app", "json"], {"PEERS_LOG_FORMAT": "JSON"}, 3),
        (["--app", "json"], {}, 3),
    ],
)
def test_the_last_words_of_a_peer_are_part_of_its_log(
    words: list[str], env: dict[str, str], code: int
) -> None:
    """Where the log is JSON lines, why a peer ends is one of them, in the same words."""
    found = peers("run", *words, url=NOWHERE, env=env)
    [line] = [json.loads(each) for each in found.err.splitlines()]
    assert (found.code, line["event"], line["level"]) == (code, "peer_failed", "error")
    told = peers("run", *words, "--log-format", "text", url=NOWHERE, env=env)
    if "--log-format" not in words:
        hint = f"hint: {line['hint']}\n" if line["hint"] else ""
        assert told.err == f"peers: {line['message']}\n{hint}"


def test_a_fault_of_ours_is_part_of_the_log() -> None:
    """Its traceback is in the line, and the exit code is 1."""
    script = (
        "import sys; from unittest.mock import patch; from peers.__main__ import main;"
        "from peers.cli import run; sys.argv = ['peers', 'run'];"
        "patch.object(run, '_work', lambda _: 1 / 0).start(); sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(NOWHERE), capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    line = json.loads(done.stderr)
    assert (done.returncode, line["event"], line["level"]) == (1, "peer_failed", "error")
    assert "ZeroDivisionError" in line["traceback"]


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    """A file that was asked for has to be there."""
    complains(peers("config", "--config", str(tmp_path / "none.toml")), 78, "none.toml", "--config")


def test_a_url_that_cannot_be_read_is_no_database() -> None:
    """Nor is the password in it repeated."""
    found = peers("status", url="postgresql://me:secret@[host/x")
    complains(found, 78, "cannot be read", "postgresql://user@host:5432/database")
    assert "secret" not in found.err


def test_two_databases_are_one_too_many() -> None:
    """Settings that contradict each other are not decided by chance; a flag decides."""
    found = peers("status", url=NOWHERE, env={"PEERS_EMBEDDED": "true"})
    complains(
        found,
        78,
        "both a database and the embedded one",
        "peers config",
        "; for a single command, pass --embedded or --database-url.",
    )
    flagged = peers("status", "--database-url", NOWHERE, env={"PEERS_EMBEDDED": "true"})
    assert flagged.code == 3


def test_an_unreachable_database_is_exit_code_3() -> None:
    """It may come back: a service manager should try again."""
    complains(peers("status", url=NOWHERE), 3, "127.0.0.1, port 1", "cannot be reached", "Check")
    complains(peers(*RUN, url=NOWHERE), 3, "cannot be reached")


@pytest.mark.parametrize("words", [["status"], ["submit", "a"], RUN])
def test_a_missing_schema_names_the_remedy(empty_database_url: str, words: list[str]) -> None:
    """A peer does not create it: that needs the owner's role."""
    complains(peers(*words, url=empty_database_url), 78, "peers migrate")


def test_a_missing_function_names_the_remedy(database_url: str, db: Connection) -> None:
    """And not what Postgres supposes: casts."""
    db.execute("drop function peers.kind_defaults")
    complains(
        peers("submit", "a", url=database_url), 78, "kind_defaults", "hint: Run `peers migrate`"
    )


def test_a_role_without_rights_is_told(database_url: str, db: Connection) -> None:
    """The role and what it lacks, not a stack."""
    [row] = db.execute("select 'u_' || md5(random()::text) as name")
    role = row["name"]
    db.execute(f"create role {role} login password 'x'")
    try:
        url = f"{database_url} user={role} password=x"
        found = peers("status", url=url)
        complains(found, 78, "permission denied for schema peers", "peers_reader")
    finally:
        db.execute(f"drop role {role}")


# ------------------------------------------------------------------------------ tasks and values


@pytest.mark.parametrize(
    "words",
    [["explain", "77"], ["cancel", "77"], ["dead", "show", "77"], ["dead", "retry", "77"],
     ["change", "77", "--priority", "1"]],
)  # fmt: skip
def test_a_task_that_is_not_there_is_exit_code_4(database_url: str, words: list[str]) -> None:
    """Its id is named."""
    found = peers(*words, url=database_url)
    assert found.code == 4
    assert "there is no task 77" in found.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["submit", "a", "--priority", "99999"], ["--priority must be -32768 to 32767", "99999"]),
        (["submit", "a", "--max-attempts", "0"], ["--max-attempts must be 1 to 1000", "0"]),
        (["submit", "a", "--timeout", "31d"], ["--timeout must be 1ms to 30d, not 31d"]),
        (["submit", "a", "--after", "77"], ["--after", "77"]),
        (["submit", "a", "--args", "-"], ["at most 1 MiB"]),
    ],
)
def test_values_out_of_bounds_name_the_bound(
    database_url: str, words: list[str], parts: list[str]
) -> None:
    """Nothing is submitted."""
    large = '{"n": "%s"}' % ("x" * (1 << 20))
    complains(peers(*words, url=database_url, stdin=large), 2, *parts)


APPS = {
    "no.such.app": ({}, ["ModuleNotFoundError: No module named 'no'"]),
    "shop/tasks.py": ({}, ["ModuleNotFoundError", "Name the module, shop.tasks, not its file"]),
    "raises": ({"raises.py": "def f():\n    1 / 0\n\nf()\n"},
               ["ZeroDivisionError", "raises.py", "line 4", "line 2"]),
    "nested": ({"nested.py": "import inner\n", "inner.py": "import no_such_library\n"},
               ["no_such_library", "nested.py", "inner.py"]),
    "wrong": ({"wrong.py": "import json\nx = = 1\n"}, ["SyntaxError", "wrong.py", "line 2"]),
    "outer": ({"outer.py": "import wrong\n", "wrong.py": "x = = 1\n"},
              ["SyntaxError", "outer.py", "wrong.py", "line 1"]),
    "chained": ({"chained.py": "try:\n    import no_such\nexcept ImportError as e:\n"
                               "    raise RuntimeError('why') from e\n"},
                ["RuntimeError: why", "No module named 'no_such'", "chained.py"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "\udcff"],
        ["submit", "a", "--unique-key", "\udcff"],
        ["submit", "a", "--args", '{"a": "\\ud800"}'],
        ["schedule", "add", "s", "a", "--every", "1h", "--args", '{"a": "\\ud800"}'],
        ["schedule", "add", "\udcff", "a", "--every", "1h"],
        ["schedule", "pause", "\udcff"],
    ],
)
def test_text_that_is_no_unicode_is_refused(database_url: str, words: list[str]) -> None:
    """Whether the shell passes other bytes than UTF-8, or JSON spells half a character."""
    complains(peers(*words, url=database_url), 2, "half a character", "Pass valid Unicode")


@pytest.mark.parametrize("app", APPS)
def test_an_app_that_cannot_be_imported_is_a_wrong_setting(
    database_url: str, tmp_path: Path, app: str
) -> None:
    """A restart would not help; the module and Python's reason are named, with the user's own
    frames and no others.
    """
    files, parts = APPS[app]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = peers(
        "run", "--app", app, "--log-format", "text", url=database_url, cwd=tmp_path,
        env={"PYTHONPATH": f"{PROJECT}:{tmp_path}"},
    )  # fmt: skip
    assert found.code == 78, found
    for part in (f"the app '{app}' cannot be imported", *parts):
        assert part in found.err, found.err
    for other in ("importlib", "peers/worker", "runpy"):
        assert other not in found.err, found.err
    assert ("Traceback" in found.err) == (app not in ("no.such.app", "wrong", "shop/tasks.py"))


def test_a_peer_without_an_app_is_told(database_url: str) -> None:
    """There is nothing that it could run."""
    found = peers("run", "--log-format", "text", url=database_url)
    complains(found, 78, "no app is configured", "--app")


# ------------------------------------------------------------------------------ pipes and Ctrl-C


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `peers config | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        done = subprocess.run(
            command("config"), stdout=output, stderr=subprocess.PIPE, env=environment(),
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_told() -> None:
    """Results that cannot be written are a failure, told in a sentence."""
    with open("/dev/full", "w") as output:
        done = subprocess.run(
            command("config"), stdout=output, stderr=subprocess.PIPE, env=environment(),
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"peers: cannot write or read: [Errno 28] No space left on device\n"


def test_ctrl_c_ends_a_waiting_command_quietly(
    database_url: str, db: Connection, connect: Callable[[], Connection]
) -> None:
    """Exit code 130, no traceback, and the statement is cancelled in the database."""
    task, holder = submit(db, "a"), connect()
    waiting = (
        "select from pg_stat_activity where application_name = 'peers cancel'"
        " and wait_event_type = 'Lock' and datname = current_database()"
    )
    with holder.transaction():
        holder.execute("select from peers.task for update")
        with subprocess.Popen(
            command("cancel", str(task)), env=environment(database_url),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            until(lambda: db.execute(waiting).fetchall(), "it waits for the task's lock")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (130, b"", b"")
        until(lambda: not db.execute(waiting).fetchall(), "its statement is cancelled")
