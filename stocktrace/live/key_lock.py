"""Whose turn it is to use a key: one connection for each is all that Finnhub allows."""

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

# What a hand-over costs at most, beside the new connection.
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The beginning of a session that has the key.

    ``began`` (epoch ns) is when the connection of whoever was waited for ended, so that this
    coverage begins where the other's ends; ``after`` names the other, and is empty if the key was
    free.
    """

    session: str
    acquired_at: int
    waited_for: str
    key_lock: KeyLock


@contextlib.contextmanager
def wait_for_key(
    key: str, settings: Settings, stopping: threading.Event, clock: Clock
) -> Iterator[KeyHolder]:
    """Hold this host's place for the key; waits for it, but no longer than ``wait_for_key``.

    Raises:
        KeyInUse: another capture holds it, still, or ``stopping`` was set meanwhile.
    """
    patience = Deadline.after(settings.wait_for_key, clock)
    after = ""
    with contextlib.ExitStack() as stack:
        while True:
            began = clock.wall()
            session = new_session(began)
            holding = acquire_key_lock(key, settings.url, session)
            try:
                place = stack.enter_context(holding)
                break
            except KeyInUse as error:
                after = f"hand-over from {error.holder}"
                if patience.passed() or stopping.wait(POLL_INTERVAL_S):
                    raise
        if after and place.last_disconnect is not None:  # it was not killed
            began = place.last_disconnect
        yield KeyHolder(session, began, after, place)


def key_id(key: str, url: str) -> str:
    """A name for ``key`` at ``url``: a hash that does not lead back to the key."""
    digest = hashlib.blake2b(f"{key}@{url}".encode(), digest_size=8, person=b"stocktrace-key")
    return digest.hexdigest()


def key_lock_path(key: str, url: str) -> Path:
    """The lock of this host's place for ``key``."""
    return Path(tempfile.gettempdir()) / f"stocktrace-{key_id(key, url)}.lock"


class KeyLock:
    """This host's place for a key, while it is held.

    ``ended`` is when its last holder ended its connection (epoch ns), if it could say so.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._descriptor = lock.open_lock_file(path)
        self._facts = {"session": session}
        try:
            lock.lock_exclusively(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.last_disconnect = _last_disconnect(path)
        lock.write_holder(self._descriptor, self._facts)

    def record_disconnect(self, ended: int) -> None:
        """Tell the next holder when the connection ended."""
        lock.write_holder(self._descriptor, {**self._facts, "ended": str(ended)})

    def release(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


@contextlib.contextmanager
def acquire_key_lock(key: str, url: str, session: str) -> Iterator[KeyLock]:
    """Hold this host's place for ``key`` at ``url`` (FINNHUB.md: one connection per key).

    Raises:
        KeyInUse: a living capture holds it.
    """
    path = key_lock_path(key, url)
    try:
        place = KeyLock(path, session)
    except BlockingIOError:
        raise KeyInUse(_describe_holder(path)) from None
    try:
        yield place
    finally:
        place.release()


def _last_disconnect(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describe_holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return f"session {facts['session']}, process {facts['pid']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process cannot be told"
