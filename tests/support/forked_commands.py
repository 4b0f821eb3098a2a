"""Run `peers` again and again in processes that need not import it: forks of one that has.

Each command is a process of its own with its environment, streams and exit code. Importing what
`peers predict` needs takes longer than what most tests have it do.

The process that forks is `python -m tests.support.forked_commands MODULE…`. It reads a command in
a line of JSON and answers with its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROJECT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 100.0


class ForkedCommands:
    """The process that forks, for the time of the block."""

    def __init__(self, modules: Sequence[str], folder: Path) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_commands", *modules],
            cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def run(self, words: Sequence[str], env: Mapping[str, str]) -> tuple[int, str, str]:
        """Run `peers WORDS` to its end: its exit code, what it printed, and what it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"words": words, "env": env, "out": str(self._out), "err": str(self._err)}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE)
        if not ready:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise TimeoutError(f"{words} takes over {_PATIENCE:g} s:\n{self._err.read_text()}")
        code = int(self._process.stdout.readline())
        return code, self._out.read_text(), self._err.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is its end


def _main(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            _become(**json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(words: list[str], env: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for stream, (path, how) in enumerate(((os.devnull, os.O_RDONLY), (out, flags), (err, flags))):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    sys.argv[1:] = words
    runpy.run_module("peers", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
