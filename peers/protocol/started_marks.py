"""Words of shared memory in which workers mark which of their tasks they have started.

They are the first part of the peer's liveness file. So they outlive the peer and its workers, and
another peer of the host can read them then (`peers.pool.unstarted`).

A mark is the number of a word. The peer gives each worker one for each queue. The word holds the
highest execution id that was started under this mark. A worker starts the tasks of a queue in the
order of their execution ids. So those with a higher id have not started.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

WORD_BYTES: Final = 8
MARKS: Final = 4096
"""How many words there are. The first one shows that the file is whole: no worker has this mark."""
MARKS_BYTES: Final = MARKS * WORD_BYTES
UNMARKED: Final = MARKS - 1
"""In place of a mark: nobody reads this word, and so nobody knows which tasks have started."""
CHECK: Final = 1_048_573
"""A prime number. A word that is not a multiple of it was not written by `encode`."""


def encode(number: int) -> int:
    """Return a number as it is stored in a word. It is never 0, as is a word that was lost."""
    return (number + 1) * CHECK


def decode(word: int) -> int | None:
    """Return the number that a word holds; None: the word is damaged."""
    number, rest = divmod(word, CHECK)
    return None if rest or not number else number - 1


class StartedMarks:
    """The marks of a worker. Raises `OSError`.

    It closes `fd`, and keeps only the memory. So a handler that writes into a wrong descriptor
    cannot reach it. `fd` is -1 if the peer has no liveness file: then nobody reads the marks.
    """

    def __init__(self, fd: int) -> None:
        if fd < 0:
            self.words = (ctypes.c_uint64 * MARKS)()
            return
        try:
            self.words = (ctypes.c_uint64 * MARKS).from_address(_map(fd))
        finally:
            os.close(fd)

    def started(self, mark: int, execution_id: int) -> None:
        """Mark that this execution starts now, and that those before it have started."""
        self.words[mark] = encode(execution_id)


def _map(fd: int) -> int:
    """Map the marks for the life of this process; return the address.

    Python's own `mmap` would keep a descriptor through which the file can be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address: int | None = libc.mmap(None, MARKS_BYTES, protection, mmap.MAP_SHARED, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "cannot map the peer's liveness file")
    return address
