"""`peers`, the command, and `python -m peers`.

It loads nothing before Ctrl-C and closed standard streams are taken care of: the rest takes a third
of a second to import.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

_INTERRUPTED: Final = 130
_STANDARD: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def main() -> NoReturn:
    """Run one command and end with its exit code."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupted)
    _open_standard_streams()
    from peers import cli

    cli.load(sys.argv[1:])
    try:
        signal.signal(signal.SIGINT, before)
        code = cli.main()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    finally:
        if before is signal.default_int_handler:  # while the interpreter ends, too
            signal.signal(signal.SIGINT, _interrupted)
    _end(code)


def _end(code: int) -> NoReturn:
    """End, and do not take the interpreter apart: with all that is imported that takes 0.1 s."""
    import logging

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End at once: a module that is being imported may swallow or wrap an exception."""
    os._exit(_INTERRUPTED)


def _open_standard_streams() -> None:
    """Give closed ones (`peers status >&-`) to /dev/null.

    Else the next file or socket gets their numbers: what is printed goes into the database's.
    """
    for number, (name, mode) in enumerate(_STANDARD):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main()
