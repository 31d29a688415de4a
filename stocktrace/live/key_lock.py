"""The key lock: one capture per API key on this host, because Finnhub allows one connection."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.clock import Clock, Deadline
from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings
from stocktrace.store import lock
from stocktrace.store.names import new_session

# The maximum delay of a hand-over, besides the new connection.
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The start of a session that holds the key lock.

    ``waited_for`` names the capture that it waited for, and is empty if the key was free. Its
    disconnect is then ``acquired_at`` (epoch ns), so that this coverage begins where that ends.
    """

    session: str
    acquired_at: int
    waited_for: str
    key_lock: KeyLock


@contextlib.contextmanager
def wait_for_key(
    key: str, settings: Settings, stopping: threading.Event, clock: Clock
) -> Iterator[KeyHolder]:
    """Hold the key lock; wait for it at most for the setting ``wait_for_key``.

    Raises:
        KeyInUse: another capture still holds it, or ``stopping`` was set.
    """
    patience = Deadline.after(settings.wait_for_key, clock)
    waited_for = ""
    with contextlib.ExitStack() as stack:
        while True:
            acquired_at = clock.wall()
            session = new_session(acquired_at)
            try:
                key_lock = stack.enter_context(acquire_key_lock(key, settings.url, session))
                break
            except KeyInUse as error:
                waited_for = f"hand-over from {error.holder}"
                if patience.passed() or stopping.wait(POLL_INTERVAL_S):
                    raise
        if waited_for and key_lock.last_disconnect is not None:  # it was not killed
            acquired_at = key_lock.last_disconnect
        yield KeyHolder(session, acquired_at, waited_for, key_lock)


def key_id(key: str, url: str) -> str:
    """Return a name for ``key`` at ``url``: a hash that does not reveal the key."""
    digest = hashlib.blake2b(f"{key}@{url}".encode(), digest_size=8, person=b"stocktrace-key")
    return digest.hexdigest()


def key_lock_path(key: str, url: str) -> Path:
    """Return the file of this host's lock for ``key``."""
    return Path(tempfile.gettempdir()) / f"stocktrace-{key_id(key, url)}.lock"


class KeyLock:
    """This host's lock for a key, while it is held.

    ``last_disconnect`` is when the last holder ended its connection (epoch ns), if it said so.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._descriptor = lock.open_lock_file(path)
        self._facts = {"session": session}
        try:
            lock.lock_exclusively(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.last_disconnect = _read_last_disconnect(path)
        lock.write_holder(self._descriptor, self._facts)

    def record_disconnect(self, stamp: int) -> None:
        """Record for the next holder when the connection ended (epoch ns)."""
        lock.write_holder(self._descriptor, {**self._facts, "ended": str(stamp)})

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


@contextlib.contextmanager
def acquire_key_lock(key: str, url: str, session: str) -> Iterator[KeyLock]:
    """Hold this host's lock for ``key`` at ``url`` (FINNHUB.md: one connection per key).

    Raises:
        KeyInUse: a running capture holds it.
    """
    path = key_lock_path(key, url)
    try:
        key_lock = KeyLock(path, session)
    except BlockingIOError:
        raise KeyInUse(_describe_holder(path)) from None
    try:
        yield key_lock
    finally:
        key_lock.release()


def _read_last_disconnect(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describe_holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return f"session {facts['session']}, process {facts['pid']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process is not known"
