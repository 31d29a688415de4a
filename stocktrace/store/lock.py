"""File locks, which the system releases when their process ends, however it ends.

- A lock file of a session, a key or a data folder is held exclusively (``hold_lock``) or shared
  (``share_lock``). One process compacts a data folder, or several verify it.
- A folder is locked without leaving a file behind (``lock_folder``). One process publishes the
  windows of a session, or several read its tapes.

A function that does not wait raises ``BlockingIOError`` if another process holds the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from stocktrace.clock import Deadline
from stocktrace.errors import StoreError
from stocktrace.store.files import lock_descriptor, make_folder, owner_of, user_name
from stocktrace.store.layout import Layout

# ``is_locked`` takes the lock for a moment; ``lock_exclusively`` tries again for this long.
_PROBE_S = 0.05


@contextlib.contextmanager
def hold_lock(path: Path, facts: dict[str, str]) -> Iterator[None]:
    """Hold the lock file ``path`` and write the holder into it: ``facts``, process, host."""
    descriptor = open_lock_file(path)
    try:
        lock_exclusively(descriptor, path)
        write_holder(descriptor, facts)
        yield
    finally:
        os.close(descriptor)


@functools.cache
def machine_id() -> str:
    """Return an id of this machine since its last start; containers on it have the same."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {uuid.getnode():x}"  # macOS


def holder_elsewhere(path: Path, sign_of_life: Path, within_s: float) -> str:
    """Return the host that last held a lock file, if that is another machine and seems alive.

    Its process seems alive if it wrote ``sign_of_life`` in the last ``within_s`` seconds, by the
    clock of the file system. Locks of network folders do not always reach other machines.
    """
    try:
        holder = json.loads(path.read_bytes())
        # After a restart this machine has another id.
        if holder["machine"] == machine_id() or holder["host"] == socket.gethostname():
            return ""
        with tempfile.TemporaryFile(dir=path.parent) as now:
            age_s = os.fstat(now.fileno()).st_mtime - sign_of_life.stat().st_mtime
        return str(holder["host"]) if age_s < within_s else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_holder(descriptor: int, facts: dict[str, str]) -> None:
    """Write the holder of a lock into its file."""
    process = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": machine_id(),
        "user": user_name(os.geteuid()),
    }
    text = json.dumps({**facts, **process})
    with contextlib.suppress(OSError):  # another user's file: the lock is held anyway
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def lock_exclusively(descriptor: int, path: Path) -> None:
    """Lock the open file ``path``; tries for a moment, because ``is_locked`` may hold the lock."""
    deadline = Deadline.after(_PROBE_S)
    while True:
        try:
            lock_descriptor(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            if deadline.passed():
                raise
            time.sleep(_PROBE_S / 50)
        else:
            return


@contextlib.contextmanager
def share_lock(path: Path) -> Iterator[None]:
    """Share the lock file ``path`` with others; nobody can hold it in the meantime."""
    with _locked(open_lock_file(path), fcntl.LOCK_SH | fcntl.LOCK_NB, path):
        yield


@contextlib.contextmanager
def lock_folder(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Lock a folder exclusively or shared; waits until that is possible.

    Locks are held only for as long as it takes to publish a window or to rename a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with _locked(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, path):
        yield


@contextlib.contextmanager
def _locked(descriptor: int, operation: int, path: Path) -> Iterator[None]:
    try:
        lock_descriptor(descriptor, operation, path)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a running process holds the lock file ``path``."""
    try:
        with _locked(os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB, path):
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def open_lock_file(path: Path) -> int:
    """Open a lock file; refuse a link, through which another file would be written."""
    try:
        make_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        # A lock file of another user in a shared folder: reading is enough to lock it.
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreError(_explain(path, error)) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise StoreError(_explain(path, error)) from error
        raise StoreError(f"The lock {path} is a link: delete it if you did not make it.") from error


def _explain(path: Path, error: OSError) -> str:
    """Return a sentence about a lock file that cannot be opened, with the owner and a remedy."""
    is_ours = path.parent == Path(tempfile.gettempdir())
    remedy = (
        "Set TMPDIR to one folder that all captures on this host can write to"
        if is_ours
        else "Ask the owner of the folder for the permission to write"
    )
    owner = owner_of(path) or owner_of(path.parent)
    belongs = f" It belongs to {owner}." if owner and owner != user_name(os.geteuid()) else ""
    return f"Cannot open the lock {path}: {error.strerror}.{belongs} {remedy}."


def compaction_lock(layout: Layout) -> AbstractContextManager[None]:
    """Keep other processes from compacting and verifying; ``StoreError`` if one does."""
    return _hold_compaction(layout, hold_lock(layout.compaction_lock, {"what": "compaction"}))


def no_compaction(layout: Layout) -> AbstractContextManager[None]:
    """Keep other processes from compacting; ``StoreError`` if one does."""
    return _hold_compaction(layout, share_lock(layout.compaction_lock))


@contextlib.contextmanager
def _hold_compaction(layout: Layout, lock: AbstractContextManager[None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except BlockingIOError:
            raise StoreError(
                f"Another process is compacting or verifying {layout.root}. Try again later."
            ) from None
        yield


@contextlib.contextmanager
def publish_lock(layout: Layout, session: str, *, exclusive: bool = True) -> Iterator[None]:
    """Keep other processes from publishing windows of a session and reading its tapes; waits.

    A cancelled capture may still publish a window while its session is recovered. The lock is on
    the folder of tapes, not the session's: the capture holds that one while others publish for it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # without tapes there is nothing to rebuild
            stack.enter_context(lock_folder(layout.tapes(session), exclusive=exclusive))
        yield


def read_lock(layout: Layout, session: str) -> AbstractContextManager[None]:
    """Keep other processes from replacing the tapes of a session; waits."""
    return publish_lock(layout, session, exclusive=False)
