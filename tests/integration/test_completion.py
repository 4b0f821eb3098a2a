"""The completion of commands, in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peers.cli import GROUPS
from peers.cli.completion import script
from tests.support.cli import peers

_PATIENCE = 15.0
_NEEDED = {name: pytest.mark.skipif(not shutil.which(name), reason=f"no {name} here")
           for name in ("bash", "zsh", "fish")}  # fmt: skip
_CASES = [
    ("peers sched", {"schedule"}),
    ("peers schedule ca", {"cancel-backfill"}),
    ("peers dead list --ki", {"--kind"}),
    ("peers predict sta", {"status"}),
    ("peers predict --mod", {"--model"}),
    ("peers run --config /proc/cmdlin", {"/proc/cmdline"}),
    ("peers predict --model /proc/cmdlin", {"/proc/cmdline"}),
    ("peers predict --output /proc/cmdlin", {"/proc/cmdline"}),
]


def _write(shell: str, folder: Path) -> Path:
    file = folder / f"peers.{shell}"
    file.write_text(script(shell))
    return file


@_NEEDED["bash"]
@pytest.mark.parametrize(("typed", "expected"), _CASES, ids=str)
def test_bash_completes(tmp_path: Path, typed: str, expected: set[str]) -> None:
    """What bash does when Tab is pressed: the function sets COMPREPLY."""
    words = typed.split()
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f"source {_write('bash', tmp_path)}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1};"
        f" COMP_LINE='{typed}'; COMP_POINT=${{#COMP_LINE}};"
        " $(complete -p peers | sed 's/.*-F \\([^ ]*\\).*/\\1/') peers;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    out = _output(["bash", "--norc", "-c", code])
    assert {line.strip() for line in out.splitlines()} == expected


@_NEEDED["fish"]
@pytest.mark.parametrize(("typed", "expected"), _CASES, ids=str)
def test_fish_completes(tmp_path: Path, typed: str, expected: set[str]) -> None:
    """`complete -C` prints what Tab would offer."""
    out = _output(["fish", "-N", "-c", f"source {_write('fish', tmp_path)}; complete -C '{typed}'"])
    assert expected <= {line.split("\t")[0].strip() for line in out.splitlines()}


@_NEEDED["zsh"]
@pytest.mark.parametrize(("typed", "expected"), _CASES, ids=str)
def test_zsh_completes(tmp_path: Path, typed: str, expected: set[str]) -> None:
    """In an interactive zsh, on a terminal."""
    folder = tmp_path / "functions"
    folder.mkdir()
    _write("zsh", tmp_path).rename(folder / "_peers")
    start = f"fpath=({folder} $fpath); autoload -U compinit; compinit -u -D; PS1='REA''DY> '\n"
    [wanted] = expected
    assert wanted in _press_tab(["zsh", "-f", "-i"], start, typed, wanted)


def _output(command: list[str]) -> str:
    env = {**os.environ, "TERM": "dumb"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _press_tab(command: list[str], start: str, typed: str, wanted: str) -> str:
    """Type into a shell on a terminal, press Tab, and return what it shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, "TERM": "dumb"})
    try:
        os.write(terminal, start.encode())
        _read_until(terminal, "READY> ")
        os.write(terminal, f"{typed}\t".encode())
        return _read_until(terminal, wanted)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def _read_until(terminal: int, wanted: str) -> str:
    text, deadline = "", time.monotonic() + _PATIENCE
    while wanted not in text.replace("\r", ""):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 1.0)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
    return text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_knows_every_command_and_starts_nothing(shell: str) -> None:
    """It is static, so Tab costs no start of Python."""
    code, out, _ = peers("completion", shell)
    assert code == 0
    for names in GROUPS.values():
        for name in names:
            assert name in out
    assert "python -" not in out
    assert "$(peers " not in out


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra, and exit code 78."""
    from peers.errors import ConfigError

    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ConfigError, match=r"pip install 'peers\[cli\]'") as caught:
        script("bash")
    assert caught.value.exit_code == 78
