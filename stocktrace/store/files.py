"""The few moves on files that everything here is made of: append whole, publish by rename."""
# MERGED """Two folders change places in one step, so that each path names one of them at any time.
#
# ``renameat2(RENAME_EXCHANGE)`` on Linux (ext4, xfs, btrfs, tmpfs, overlay),
# ``renamex_np(RENAME_SWAP)`` on macOS (APFS). Python has neither.
# """

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

from stocktrace.errors import DiskFull, StoreError, UsageError

# Syncs that wait beside each other: a journal takes them in together.
_AT_ONCE = 16
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_STDOUT = 1
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors on ``path`` into ours, with the sentence and the cause."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull(path, free_bytes(path)) from error
        if isinstance(error, (FileNotFoundError, FileExistsError)):
            raise
        raise StoreError(f"Cannot write {path}: {error.strerror or error}.") from error


def other_kind(path: Path) -> str:
    """What ``path`` leads to if that is not a regular file: ``a folder``, ``a device``; else empty.

    Raises:
        OSError: nothing is there, or it cannot be looked at.
    """
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "")


def free_bytes(path: Path) -> int:
    """What an unprivileged writer has left on the file system of ``path`` or its nearest parent."""
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``; one call can take less of it: a signal, a disk that is nearly full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def append(path: Path, data: bytes | memoryview) -> None:
    """Append ``data`` to ``path``, which is made if need be; no handle stays open."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until ``path``, a file or a folder, is on the disk."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_files(paths: Sequence[Path]) -> None:
    """Wait until all ``paths`` are on the disk, several at a time.

    The wait is the disk's: thousands of files one after another would outlast the end of a capture.
    """
    with ThreadPoolExecutor(_AT_ONCE, "stocktrace-sync") as pool:
        list(pool.map(sync_file, paths))  # to raise what one of them raised


def publish_file(temporary: Path, final: Path) -> None:
    """Put a complete, checked file under its final name, and see that the name lasts."""
    sync_file(temporary)
    with disk_errors(final):
        temporary.replace(final)
    sync_file(final.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file as a whole: a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_temporary(path) as temporary:
        with disk_errors(path):
            temporary.write_text(text, encoding="utf-8")
        publish_file(temporary, path)


@contextlib.contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """Open what the user named for output; a file takes its name when it is whole.

    A link stays, and the file that it leads to is replaced. A pipe and the standard output
    (``/dev/stdout``) are written as they are.

    Raises:
        UsageError: a folder, a device or a socket is there; nothing was changed.
        StoreError: the file cannot be written.
    """
    if stream := _stream(path):
        with stream:
            yield stream
        return
    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise StoreError(f"Cannot write {path}: there is no folder {final.parent}.")
    with locked_temporary(final) as temporary:
        with disk_errors(path), temporary.open("wb") as file:
            yield file
        publish_file(temporary, final)


def _stream(path: Path) -> BinaryIO | None:
    """What is written without a rename; ``None`` for a file, which may not be there yet."""
    try:
        with disk_errors(path):
            kind = other_kind(path)
    except FileNotFoundError:
        return None
    if is_stdout(path) and kind not in ("a device", "a folder"):
        return os.fdopen(os.dup(_STDOUT), "wb")
    if kind == "a pipe":
        return path.open("wb")
    if kind:
        raise UsageError(f"Cannot write {path}: it is {kind}. Give the name of a file or a pipe.")
    return None


def is_stdout(path: Path) -> bool:
    """Whether ``path`` leads to where our standard output goes."""
    try:
        return os.path.samestat(path.stat(), os.fstat(_STDOUT))
    except OSError:
        return False


def temporary_for(final: Path) -> Path:
    """Return a name beside ``final`` that no reader takes for data and nobody else uses.

    It has no process id: processes in different containers can have the same one. A sweep may
    remove the file, unless the session's lock is held or it is a ``locked_temporary``.
    """
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def locked_temporary(final: Path) -> Iterator[Path]:
    """Make an empty file beside ``final``, to be written and renamed; remove it otherwise.

    It is locked until then, and ``remove_abandoned`` keeps away from it.
    """
    with disk_errors(final):
        temporary, descriptor = _make_locked(final, partial(Path.touch, exist_ok=False))
    try:
        yield temporary
    finally:
        try:
            temporary.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """Make a folder beside ``final``, with the lock and the end of ``locked_temporary``.

    The lock goes with the folder when it is renamed: end the context before others lock it.
    """
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _make_locked(final, Path.mkdir)
    try:
        yield temporary
    finally:
        try:
            shutil.rmtree(temporary, ignore_errors=True)
        finally:
            os.close(descriptor)


def _make_locked(final: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    while True:
        path = temporary_for(final)
        make(path)
        with contextlib.suppress(FileNotFoundError):  # it was swept before it was locked
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                path.stat()
            except BaseException:
                os.close(descriptor)
                raise
            return path, descriptor


def remove_abandoned(temporary: Path) -> None:
    """Remove a temporary file or folder, unless a living process has it locked.

    The lock is the only sign of life: process ids mean nothing in another container.
    """
    try:
        # A link is never followed, and a named pipe does not make us wait.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # removed in the meantime, or not ours to remove
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and see that their names last."""
    missing = [path]
    while not missing[-1].exists():
        missing.append(missing[-1].parent)
    path.mkdir(parents=True, exist_ok=True)
    for parent in missing[1:]:
        sync_file(parent)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
# What file systems say that cannot.
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)


def swap_folders(one: Path, other: Path) -> None:
    """Let the folders ``one`` and ``other``, of one file system, change places.

    Raises:
        StoreError: the system cannot; nothing was changed.
    """
    number = _renameat2()(os.fsencode(one), os.fsencode(other))
    if number in _UNABLE:
        raise StoreError(
            f"The file system of {other} cannot let two folders change places "
            f"({os.strerror(number)}): leave {other} as it is, or use ext4, xfs, btrfs or APFS, "
            "with the whole data folder on one of them."
        )
    if number:
        raise StoreError(f"Cannot put {one} in the place of {other}: {os.strerror(number)}.")


def _renameat2() -> Callable[[bytes, bytes], int]:
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
