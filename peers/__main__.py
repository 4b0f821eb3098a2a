"""Run the command `peers`, also as `python -m peers`.

Importing the rest takes a third of a second, so this module first handles Ctrl-C and closed
standard streams.
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
    if before is signal.default_int_handler:  # otherwise it is ignored, as under nohup
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
        if before is signal.default_int_handler:  # also while the interpreter ends
            signal.signal(signal.SIGINT, _interrupted)
    _end(code)


def _end(code: int) -> NoReturn:
    """End without the interpreter's cleanup, which takes 0.1 s with everything imported."""
    import logging

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End at once. An exception would not do: a module that is importing may catch it."""
    os._exit(_INTERRUPTED)


def _open_standard_streams() -> None:
    """Open closed standard streams (`peers status >&-`) as /dev/null.

    Otherwise the next file or socket would get their numbers, and output would go to the database.
    """
    for number, (name, mode) in enumerate(_STANDARD):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, this one
            os.set_inheritable(number, True)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # stays open
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main()
