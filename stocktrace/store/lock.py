"""Who is alive: locks that the system takes back when their process dies, however it dies."""
# MERGED """Who may be at a data folder at the same time: one that compacts, or many that compare.
#
# And who may be at a session's windows: one that publishes, or many that read its tapes.
# """

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from stocktrace.clock import Deadline
from stocktrace.errors import StoreError
from stocktrace.store.layout import Layout

# ``is_locked`` takes the lock for a moment; a process that meets it tries again for this long.
_PROBE_S = 0.05


@contextlib.contextmanager
def hold_lock(path: Path, facts: dict[str, str]) -> Iterator[None]:
    """Hold the lock ``path``; its file tells who does (``facts``, process, host).

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = open_lock_file(path)
    try:
        lock_exclusively(descriptor)
        write_holder(descriptor, facts)
        yield
    finally:
        os.close(descriptor)


def write_holder(descriptor: int, facts: dict[str, str]) -> None:
    text = json.dumps({**facts, "pid": os.getpid(), "host": socket.gethostname()})
    with contextlib.suppress(OSError):  # another user's file: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def lock_exclusively(descriptor: int) -> None:
    patience = Deadline.after(_PROBE_S)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if patience.passed():
                raise
            time.sleep(_PROBE_S / 50)
        else:
            return


@contextlib.contextmanager
def share_lock(path: Path) -> Iterator[None]:
    """Keep away, together with others who do, whoever would hold the lock ``path``.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = open_lock_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_folder(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Have a folder to oneself, or share it with others who do; waits until that can be.

    Nobody has one for longer than it takes to publish a window or to rename a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock ``path``."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def open_lock_file(path: Path) -> int:
    """Open a lock file; a link in its place would have another file written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        # A lock file of another user in a shared folder: reading is enough to lock it.
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreError(f"Cannot open the lock {path}: {error.strerror}.") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreError(f"The lock {path} is a link: remove it, if it is not yours.") from error


@contextlib.contextmanager
def compaction_lock(layout: Layout) -> Iterator[None]:
    """Nobody else compacts, and nobody verifies, meanwhile.

    Raises:
        StoreError: somebody does.
    """
    with _locked(layout, hold_lock(layout.compaction_lock, {"what": "compaction"})):
        yield


@contextlib.contextmanager
def no_compaction(layout: Layout) -> Iterator[None]:
    """Nobody compacts meanwhile.

    Raises:
        StoreError: somebody does.
    """
    with _locked(layout, share_lock(layout.compaction_lock)):
        yield


@contextlib.contextmanager
def publish_lock(layout: Layout, session: str) -> Iterator[None]:
    """Nobody else publishes or rebuilds windows of a session, or reads its tapes; waits for them.

    A capture that was cancelled may still publish a window when its session is recovered. The lock
    is that of the folder of tapes, which leaves no file behind, and not that of the session: the
    capture holds that one while others publish for it.
    """
    with _lock_tapes(layout, session, exclusive=True):
        yield


@contextlib.contextmanager
def read_lock(layout: Layout, session: str) -> Iterator[None]:
    """Nobody replaces the tapes of a session meanwhile; waits until that is so."""
    with _lock_tapes(layout, session, exclusive=False):
        yield


@contextlib.contextmanager
def _lock_tapes(layout: Layout, session: str, *, exclusive: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # without tapes there is nothing to rebuild
            stack.enter_context(lock_folder(layout.tapes(session), exclusive=exclusive))
        yield


@contextlib.contextmanager
def _locked(layout: Layout, guard: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(guard)
        except BlockingIOError:
            raise StoreError(
                f"Another process compacts or verifies {layout.root}: try again when it has ended."
            ) from None
        yield
