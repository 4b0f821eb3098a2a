"""Run `peers` again and again in processes that need not import it: forks of one that has.

Each command is a process of its own with its environment, streams, working directory and exit
code. Importing what a command needs takes longer than what most tests have it do. Tests of the
start itself, of signals that come early and of unusual streams run `python -m peers`.

The process that forks is `python -m tests.support.forked_commands CONTROL MODULE…`. A byte on
CONTROL (an inherited socket) asks for a command; five descriptors come with it: the request in
JSON, stdin, stdout, stderr, and a pipe for the exit code. It replies with the pid.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Final, Self

from peers.cli import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import IO

_PROJECT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 100.0
_IMPORTED_LATE: Final = (
    "peers.cli.database", "peers.cli.failures", "peers.client.operations", "peers.client.results",
    "peers.database.schema", "peers.handlers", "peers.peer.loop", "psycopg_pool",
)  # fmt: skip
"""What commands import when they need it."""
_PYTHON: Final = ("PYTHON", "LANG", "LC_", "LD_")
"""Variables that begin like this have effects while Python starts."""
_HARMLESS: Final = frozenset({"PYTHONPATH"})
_STANDARD: Final = ("stdin", "stdout", "stderr")


class ForkedProcess:
    """A command, with what subprocess.Popen has; its parent is the process that forks."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = open(ended, "rb", buffering=0)  # noqa: SIM115  # closed when it has ended

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("peers", timeout or 0.0)
            self.returncode = int(self._ended.read() or -signal.SIGKILL)
            self._ended.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        """Close the pipe of a command that nobody waited for."""
        self._ended.close()


class ForkedCommands:
    """The process that forks."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *modules],
                cwd=_PROJECT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def start(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: Path = _PROJECT,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> ForkedProcess:
        """Start `peers WORDS`; a stream that is None is /dev/null."""
        request = {"words": list(words), "env": dict(env), "cwd": str(cwd)}
        with contextlib.ExitStack() as stack:
            asked = stack.enter_context(TemporaryFile())
            asked.write(json.dumps(request).encode())
            asked.seek(0)
            null = stack.enter_context(open(os.devnull, "r+b", buffering=0)).fileno()
            ended, end = os.pipe()
            stack.callback(os.close, end)
            streams = [null if stream is None else stream for stream in (stdin, stdout, stderr)]
            socket.send_fds(self._control, [b"!"], [asked.fileno(), *streams, end])
            reply = self._control.recv(32)
        assert reply, "the process that forks has ended"
        return ForkedProcess(int(reply), ended)

    def run(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: Path = _PROJECT,
        stdin: str = "",
        patience: float = _PATIENCE,
    ) -> tuple[int, str, str]:
        """Run `peers WORDS` to its end: its exit code, what it printed, and what it said."""
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            streams = {"stdin": given.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
            process = self.start(words, env, cwd=cwd, **streams)
            try:
                code = process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                raise TimeoutError(f"{words} takes over {patience:g} s:\n{_text(err)}") from None
            return code, _text(out), _text(err)

    def close(self) -> None:
        """End the process that forks; commands that still run go on."""
        self._control.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def shared() -> ForkedCommands:
    """Return the one that has imported every command but `peers predict`, for the whole session."""
    return ForkedCommands(
        [*(f"peers.cli.{group}" for group in GROUPS if group != "predict"), *_IMPORTED_LATE]
    )


def end_shared() -> None:
    """End it, if there is one."""
    if shared.cache_info().currsize:
        shared().close()
        shared.cache_clear()


def needs_its_own_start(env: Mapping[str, str]) -> bool:
    """Tell whether these variables have effects while Python starts."""
    return _of_python(env) != _of_python(os.environ) or any(
        Path(place, "sitecustomize.py").exists() for place in _python_path(env)
    )


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in env.items()
        if name.startswith(_PYTHON) and name not in _HARMLESS
    }


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _main(control_fd: int, modules: Iterable[str]) -> None:
    library = [place for place in sys.path[1:] if place not in _python_path(os.environ)]
    for module in modules:
        importlib.import_module(module)
    control = socket.socket(fileno=control_fd)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(running)
        if control.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 5)
            if not message:
                return
            asked, *streams, end = descriptors
            pid = os.fork()
            if pid == 0:
                _become(asked, streams, library)
                return
            running[pid] = end
            for descriptor in (asked, *streams):
                os.close(descriptor)
            control.send(str(pid).encode())


def _report_ended(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with contextlib.suppress(BrokenPipeError), open(running.pop(pid), "wb") as end:
            end.write(str(os.waitstatus_to_exitcode(status)).encode())


def _become(asked: int, streams: Sequence[int], library: Sequence[str]) -> None:
    """Run the command in this process as if it had just been started."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(asked, "rb") as file:
        request = json.load(file)
    for number, (stream, name, mode) in enumerate(zip(streams, _STANDARD, "rww", strict=True)):
        os.dup2(stream, number)
        old = getattr(sys, name)  # it still knows whether it could seek
        new = open(  # noqa: SIM115  # it stays open
            number, mode, old.line_buffering or -1, old.encoding, old.errors, closefd=False
        )
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[:] = [request["cwd"], *_python_path(os.environ), *library]
    sys.argv[1:] = request["words"]
    runpy.run_module("peers", run_name="__main__", alter_sys=True)


def _python_path(env: Mapping[str, str]) -> list[str]:
    return [place for place in env.get("PYTHONPATH", "").split(os.pathsep) if place]


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
