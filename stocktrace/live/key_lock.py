"""The key lock: one capture per API key on this host, because Finnhub allows one connection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stocktrace.clock import Clock, Deadline
from stocktrace.errors import KeyInUse, StoreError
from stocktrace.settings import Settings
from stocktrace.store import lock
from stocktrace.store.files import user_name
from stocktrace.store.names import new_session

# The maximum delay of a hand-over, besides the new connection.
POLL_INTERVAL_S = 0.05
# Where Python looks for a temporary folder before it takes the working folder.
_TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_TEMPORARY_FOLDERS = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - named, not used


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The start of a session that holds the key lock.

    ``waited_for`` names the capture that it waited for, and is empty if the key was free. Its
    disconnect is then ``acquired_at`` (epoch ns), so that this coverage begins where that ends.
    """

    session: str
    acquired_at: int
    waited_for: str
    descriptor: int

    def record_disconnect(self, stamp: int) -> None:
        """Record for the next holder when the connection ended (epoch ns)."""
        lock.write_holder(self.descriptor, {"session": self.session, "ended": str(stamp)})


@contextlib.contextmanager
def wait_for_key(
    key: str, settings: Settings, stopping: threading.Event, clock: Clock
) -> Iterator[KeyHolder]:
    """Hold the key lock; wait for it at most for the setting ``wait_for_key``.

    ``KeyInUse`` if another capture still holds it, or ``stopping`` was set.
    """
    patience = Deadline.after(settings.wait_for_key, clock)
    waited_for = ""
    with contextlib.ExitStack() as stack:
        while True:
            acquired_at = clock.wall()
            session = new_session(acquired_at)
            try:
                key_lock = acquire_key_lock(key, settings.url, session)
                descriptor, last_disconnect = stack.enter_context(key_lock)
                break
            except KeyInUse as error:
                waited_for = f"hand-over from {error.holder}"
                if patience.passed() or stopping.wait(POLL_INTERVAL_S):
                    raise
        if waited_for and last_disconnect is not None:  # it was not killed
            acquired_at = last_disconnect
        yield KeyHolder(session, acquired_at, waited_for, descriptor)


def key_id(key: str, url: str) -> str:
    """Return a name for ``key`` at ``url``: a hash that does not reveal the key."""
    digest = hashlib.blake2b(f"{key}@{url}".encode(), digest_size=8, person=b"stocktrace-key")
    return digest.hexdigest()


def key_lock_path(key: str, url: str) -> Path:
    """Return the file of this host's lock for ``key``.

    Raises:
        StoreError: no temporary folder can be written. The working folder, which Python takes then,
            is not the same for all captures of this host.
    """
    wanted = [*filter(None, map(os.environ.get, _TEMPORARY_VARIABLES)), *_TEMPORARY_FOLDERS]
    try:
        folder = tempfile.gettempdir()
        is_shared = folder in map(os.path.abspath, wanted) or folder != str(Path.cwd())
    except FileNotFoundError:  # nothing can be written, or the working folder is missing
        folder, is_shared = "", False
    if not is_shared:
        raise StoreError(
            f"Cannot lock the API key: no temporary folder can be written ({', '.join(wanted)}). "
            "Set TMPDIR to one folder that all captures on this host can write to."
        )
    return Path(folder) / f"stocktrace-{key_id(key, url)}.lock"


class _Holder(msgspec.Struct):
    """The contents of the lock's file, as ``lock.write_holder`` writes them."""

    session: str
    pid: int
    user: str = ""
    ended: int | None = None


@contextlib.contextmanager
def acquire_key_lock(key: str, url: str, session: str) -> Iterator[tuple[int, int | None]]:
    """Hold this host's lock for ``key`` at ``url``; ``KeyInUse`` if a capture holds it.

    Yields its descriptor, and when the last holder ended its connection (epoch ns), if it said so.
    """
    path = key_lock_path(key, url)
    descriptor = lock.open_lock_file(path)
    try:
        try:
            lock.lock_exclusively(descriptor, path)
        except BlockingIOError:
            holder = _read_holder(path)
            raise KeyInUse(_describe(holder)) from None
        last = _read_holder(path)
        lock.write_holder(descriptor, {"session": session})
        yield descriptor, last.ended if last else None
    finally:
        os.close(descriptor)


def _describe(holder: _Holder | None) -> str:
    if holder is None:
        return "its process is not known"
    is_ours = holder.user in ("", user_name(os.geteuid()))
    user = "" if is_ours else f" of user {holder.user}"
    return f"session {holder.session}, process {holder.pid}{user}"


def _read_holder(path: Path) -> _Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Holder, strict=False)
    except (OSError, ValueError):
        return None
