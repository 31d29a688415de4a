"""What is opened or listed below some folders, as the kernel saw it (inotify(7)).

It sees pyarrow's own opens and other processes, which no hook in Python does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_OPEN = 0x20
_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened_below(folders: Iterable[Path]) -> Iterator[set[Path]]:
    """Gives a set; when the block ends, it has what was opened, and folders that were listed."""
    watching = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        watched = {
            _checked(_libc.inotify_add_watch(watching, os.fsencode(folder), _OPEN)): folder
            for top in folders
            for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]
        }
        found: set[Path] = set()
        _events(watching)  # of looking for the folders
        yield found
        found |= {watched[number] / name for number, name in _events(watching)}
    finally:
        os.close(watching)


def _events(watching: int) -> list[tuple[int, str]]:
    """The watch and the name of each; no name is the folder itself."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while data := os.read(watching, 1 << 16):
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                assert not mask & _OVERFLOW, "more was opened than the kernel keeps"
                at += _EVENT.size + length
                found.append((number, os.fsdecode(data[at - length : at].rstrip(b"\0"))))
    return found


def _checked(number: int) -> int:
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return number
