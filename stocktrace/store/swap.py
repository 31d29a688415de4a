"""Two folders change places in one step, so that each path names one of them at any time.

``renameat2(RENAME_EXCHANGE)`` on Linux (ext4, xfs, btrfs, tmpfs, overlay),
``renamex_np(RENAME_SWAP)`` on macOS (APFS). Python has neither.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from stocktrace.errors import StoreError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
# What file systems say that cannot.
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)


def exchange(one: Path, other: Path) -> None:
    """Let the folders ``one`` and ``other``, of one file system, change places.

    Raises:
        StoreError: the system cannot; nothing was changed.
    """
    number = _call()(os.fsencode(one), os.fsencode(other))
    if number in _UNABLE:
        raise StoreError(
            f"The file system of {other} cannot let two folders change places "
            f"({os.strerror(number)}): leave {other} as it is, or use ext4, xfs, btrfs or APFS, "
            "with the whole data folder on one of them."
        )
    if number:
        raise StoreError(f"Cannot put {one} in the place of {other}: {os.strerror(number)}.")


def _call() -> Callable[[bytes, bytes], int]:
    """The system's call, which gives the number of its error, or 0."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            swap = library.renamex_np
            swap.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
            return lambda one, other: ctypes.get_errno() if swap(one, other, _RENAME_SWAP) else 0
        rename = library.renameat2  # glibc 2.28, musl 1.2.4
        folder, path = ctypes.c_int, ctypes.c_char_p
        rename.argtypes = (folder, path, folder, path, ctypes.c_uint)
    except AttributeError:
        return lambda _one, _other: errno.ENOSYS
    return lambda one, other: (
        ctypes.get_errno() if rename(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) else 0
    )
