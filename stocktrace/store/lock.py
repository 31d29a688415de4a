"""Who is alive: locks that the system takes back when their process dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stocktrace.deadline import Deadline
from stocktrace.errors import KeyInUse, StoreError

# ``is_held`` takes the lock for a moment, to ask: whoever meets it tries for so long.
_PROBE_S = 0.05


@contextlib.contextmanager
def held(path: Path, facts: dict[str, str]) -> Iterator[None]:
    """Hold the lock ``path``; its file tells who does (``facts``, process, host).

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = _open(path)
    try:
        _take(descriptor)
        _write(descriptor, facts)
        yield
    finally:
        os.close(descriptor)


def _write(descriptor: int, facts: dict[str, str]) -> None:
    text = json.dumps({**facts, "pid": os.getpid(), "host": socket.gethostname()})
    with contextlib.suppress(OSError):  # another user's file: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _take(descriptor: int) -> None:
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
def shared(path: Path) -> Iterator[None]:
    """Keep away, together with others who do, whoever would hold the lock ``path``.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Have a folder to oneself, or share it with others who do; waits until that can be.

    Nobody has one for longer than it takes to publish a window or to rename a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
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


def key_id(key: str, url: str) -> str:
    """A name for ``key`` at ``url``: a hash that does not lead back to the key."""
    digest = hashlib.blake2b(f"{key}@{url}".encode(), digest_size=8, person=b"stocktrace-key")
    return digest.hexdigest()


def key_lock(key: str, url: str) -> Path:
    """The lock of this host's place for ``key``."""
    return Path(tempfile.gettempdir()) / f"stocktrace-{key_id(key, url)}.lock"


class Place:
    """This host's place for a key, while it is held.

    ``ended`` is when its last holder ended its connection (epoch ns), if it could say so.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._descriptor = _open(path)
        self._facts = {"session": session}
        try:
            _take(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.ended = _ended(path)
        _write(self._descriptor, self._facts)

    def leave_word(self, ended: int) -> None:
        """Tell the next holder when the connection ended."""
        _write(self._descriptor, {**self._facts, "ended": str(ended)})

    def give_back(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


@contextlib.contextmanager
def one_capture_per_key(key: str, url: str, session: str) -> Iterator[Place]:
    """Hold this host's place for ``key`` at ``url`` (FINNHUB.md: one connection per key).

    Raises:
        KeyInUse: a living capture holds it.
    """
    path = key_lock(key, url)
    try:
        place = Place(path, session)
    except BlockingIOError:
        raise KeyInUse(_holder(path)) from None
    try:
        yield place
    finally:
        place.give_back()


def _ended(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return f"session {facts['session']}, process {facts['pid']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process cannot be told"


def _open(path: Path) -> int:
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
