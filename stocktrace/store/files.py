"""The file operations that the store is built on: append, publish by rename, swap folders."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import pwd
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

from stocktrace.errors import DiskFull, StoreError, UsageError

log = logging.getLogger(__name__)

# Files that wait for the journal of the file system, which writes them together.
_MAX_WAITING = 16
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Some network and FUSE file systems do not sync folders, or do not lock files.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
# The devices that refused to sync a folder, which was logged.
_unsynced_devices: set[int] = set()
_STDOUT = 1
#: The flags with which ``append`` opens a file.
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
#: Called with how many files are done, and of how many, on the thread that works on them.
OnProgress = Callable[[int, int], None]
Item = TypeVar("Item")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Translate an ``OSError`` on ``path`` into a ``StoreError`` that names it."""
    try:
        yield
    except OSError as error:
        raise_disk_error(path, error)


def raise_disk_error(path: Path, error: OSError) -> NoReturn:
    """Raise a ``StoreError`` that names ``path``; a missing or existing file stays what it is."""
    if error.errno in _NO_SPACE:
        inodes = free_inodes(path)
        raise DiskFull(path, free_bytes(path), inodes if inodes == 0 else None) from error
    if error.errno == errno.EXDEV:
        raise StoreError(
            f"Cannot write {path}: it is on another disk than the data folder. Move or link the "
            "whole data folder, not a part of it."
        ) from error
    if isinstance(error, (FileNotFoundError, FileExistsError)):
        raise error
    raise StoreError(f"Cannot write {path}: {error.strerror or error}.") from error


def other_kind(path: Path) -> str:
    """Return what ``path`` is if it is not a regular file, such as ``a folder``; otherwise "".

    Raises:
        OSError: ``path`` does not exist, or it cannot be examined.
    """
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "")


def free_bytes(path: Path) -> int:
    """Return the free bytes for unprivileged users on the file system of ``path`` or a parent."""
    status = _file_system(path)
    return status.f_bavail * status.f_frsize


def free_inodes(path: Path) -> int | None:
    """Return how many files can be made there; ``None`` if only the space limits them (btrfs)."""
    status = _file_system(path)
    return status.f_favail if status.f_files else None


def _file_system(path: Path) -> os.statvfs_result:
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.statvfs(path)


def owner_of(path: Path) -> str:
    """Return the name of the user who owns ``path``, or the number; empty if it cannot be seen."""
    try:
        user = path.lstat().st_uid
    except OSError:
        return ""
    return user_name(user)


def user_name(user: int) -> str:
    """Return the name of a user, or the number if the system knows no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``: one call may write less, after a signal or on a nearly full disk."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def append(path: Path | str, data: bytes | memoryview) -> None:
    """Append ``data`` to ``path``, which is created if it is missing; no handle stays open."""
    with disk_errors(Path(path)):
        descriptor = os.open(path, APPEND, 0o666)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


def sync(descriptor: int) -> None:
    """Wait until an open file or folder is on disk, and not only in the cache of the disk."""
    if sys.platform == "darwin":  # there, fsync does not wait for the disk's cache
        with contextlib.suppress(OSError):  # a file system that does not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Wait until ``path``, a file or a folder, is on disk.

    A file system that does not sync folders is logged once, and used as it is.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            sync(descriptor)
        except OSError as error:
            status = os.fstat(descriptor)
            if error.errno not in _NO_FOLDER_SYNC or not stat.S_ISDIR(status.st_mode):
                raise
            if status.st_dev not in _unsynced_devices:
                _unsynced_devices.add(status.st_dev)
                log.warning(folder_sync_notice(path))
        finally:
            os.close(descriptor)


def folder_sync_notice(folder: Path) -> str:
    """Return a sentence if the file system of ``folder`` was found not to sync folders."""
    if folder.stat().st_dev not in _unsynced_devices:
        return ""
    return (
        f"the file system of {folder} does not sync folders: a power cut can take the names of "
        "new files"
    )


def check_rename(source: Path, target: Path) -> None:
    """Rename a file from one folder to the other, which are made if they are missing.

    Raises:
        UsageError: They are on different disks.
    """
    for folder in (source, target):
        make_folder(folder)
    with locked_temporary(source / "probe") as temporary:
        moved = temporary_for(target / "probe")
        try:
            temporary.replace(moved)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise UsageError(
                f"{target} is on another disk than {source}, so no file can be moved there in one "
                "step. Move or link the whole data folder, not a part of it."
            ) from error
        moved.unlink()


class OpenFolder:
    """A folder that stays open, so that its move or replacement by another one is noticed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    @property
    def is_in_place(self) -> bool:
        """Return whether its path still leads to it."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def find(self) -> Path | None:
        """Return where it is now; ``None`` if it was deleted, or the system does not say."""
        try:
            if sys.platform == "darwin":
                text = fcntl.fcntl(self._descriptor, fcntl.F_GETPATH, bytes(1024))
                path = Path(os.fsdecode(text.rstrip(b"\0")))
            else:
                path = Path(f"/proc/self/fd/{self._descriptor}").readlink()
            is_there = os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return None
        return path if is_there else None


def lock_descriptor(descriptor: int, operation: int, path: Path) -> None:
    """Lock an open file (``flock``); ``path`` is named if its file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock.
        StoreError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StoreError(
            f"Cannot lock {path}: its file system has no lock service ({error.strerror}). Use a "
            "folder on a local disk, or start the lock service of the network file system."
        ) from error


def do_at_once(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Do ``work`` with each of ``items``, several at a time; raise the first error.

    One after another, each file that is created or deleted waits for the journal of the file
    system, and the thousands of a window take seconds.
    """
    with ThreadPoolExecutor(_MAX_WAITING, "stocktrace-files") as pool:
        for _ in pool.map(work, items):
            pass


def publish_file(temporary: Path, final: Path) -> None:
    """Sync a complete, checked file, give it its final name and sync the name."""
    sync_file(temporary)
    with disk_errors(final):
        temporary.replace(final)
    sync_file(final.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file as a whole: a reader sees the old text or the new one."""
    make_folder(path.parent)
    with locked_temporary(path) as temporary:
        with disk_errors(path):
            temporary.write_text(text, encoding="utf-8")
        publish_file(temporary, path)


@contextlib.contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """Open the user's output file; it appears under its name when it is complete.

    If ``path`` is a link, the file that it leads to is replaced. A pipe and the standard output
    (``/dev/stdout``) are written directly.

    Raises:
        UsageError: ``path`` is a folder, a device or a socket; nothing was changed.
        StoreError: The file cannot be written.
    """
    if stream := _stream(path):
        with stream:
            yield stream
        return
    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise StoreError(f"Cannot write {path}: the folder {final.parent} does not exist.")
    with locked_temporary(final) as temporary:
        with disk_errors(path), temporary.open("wb") as file:
            yield file
        publish_file(temporary, final)


def _stream(path: Path) -> BinaryIO | None:
    """Open a pipe or the standard output; return ``None`` for a regular or missing file."""
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
        raise UsageError(f"Cannot write {path}: it is {kind}. Name a file or a pipe.")
    return None


def is_stdout(path: Path) -> bool:
    """Return whether ``path`` is our standard output."""
    try:
        return os.path.samestat(path.stat(), os.fstat(_STDOUT))
    except OSError:
        return False


def temporary_for(final: Path) -> Path:
    """Return an unused name beside ``final`` that no reader takes for data.

    It has no process id: processes in different containers can have the same one. A sweep may
    delete the file, unless the session's lock is held or it is a ``locked_temporary``.
    """
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")


def locked_temporary(final: Path) -> AbstractContextManager[Path]:
    """Create an empty file beside ``final``, to be written and renamed; delete it if it is not.

    It is locked until the end of the context, so that ``remove_abandoned`` leaves it alone.
    """
    make, delete = partial(Path.touch, exist_ok=False), partial(Path.unlink, missing_ok=True)
    return _locked_temporary(final, make, delete)


def temporary_folder(final: Path) -> AbstractContextManager[Path]:
    """Create a folder beside ``final``, with the lock and the end of ``locked_temporary``.

    A renamed folder keeps the lock: end the context before others lock it.
    """
    make_folder(final.parent)
    make, delete = Path.mkdir, partial(shutil.rmtree, ignore_errors=True)
    return _locked_temporary(final, make, delete)


@contextlib.contextmanager
def _locked_temporary(
    final: Path, make: Callable[[Path], None], delete: Callable[[Path], None]
) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        with disk_errors(final):
            temporary, descriptor = _make_locked(final, make)
        stack.callback(os.close, descriptor)
        stack.callback(delete, temporary)  # while it is locked
        yield temporary


def _make_locked(final: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    while True:
        path = temporary_for(final)
        make(path)
        with contextlib.suppress(FileNotFoundError):  # deleted by a sweep before it was locked
            descriptor = os.open(path, os.O_RDONLY)
            try:
                lock_descriptor(descriptor, fcntl.LOCK_EX, path)
                path.stat()
            except BaseException:
                os.close(descriptor)
                raise
            return path, descriptor


def remove_abandoned(temporary: Path) -> None:
    """Delete a temporary file or folder, unless a running process has locked it.

    Only the lock is reliable: process ids mean nothing in another container.
    """
    try:
        # Never follow a link, never wait for a named pipe.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # deleted in the meantime, or not ours to delete
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


_MAKING = threading.Lock()


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and sync their names.

    A thread that finds the folder waits until the one that created it has synced it.
    """
    with _MAKING:
        missing = [path]
        while not missing[-1].exists():
            missing.append(missing[-1].parent)
        path.mkdir(parents=True, exist_ok=True)
        for parent in missing[1:]:
            sync_file(parent)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
# The errors of file systems that cannot swap folders.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)


def swap_folders(staged: Path, live: Path) -> None:
    """Swap two folders of one file system atomically: each path always names one of them.

    ``renameat2(RENAME_EXCHANGE)`` on Linux (ext4, xfs, btrfs, tmpfs, overlay),
    ``renamex_np(RENAME_SWAP)`` on macOS (APFS). Python has neither.

    Raises:
        StoreError: The system cannot; nothing was changed.
    """
    number = _swap(os.fsencode(staged), os.fsencode(live))
    if number in _UNSUPPORTED:
        raise StoreError(
            f"The file system of {live} cannot swap two folders ({os.strerror(number)}): leave "
            f"{live} as it is, or move the whole data folder to ext4, xfs, btrfs or APFS."
        )
    if number:
        raise StoreError(f"Cannot replace {live} by {staged}: {os.strerror(number)}.")


def _swap(one: bytes, other: bytes) -> int:
    """Swap two paths; return the error number of the system call, or 0."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(one, other, _RENAME_SWAP)
        else:  # glibc 2.28, musl 1.2.4
            failed = library.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
    except AttributeError:
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0
