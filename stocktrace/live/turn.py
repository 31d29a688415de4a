"""Whose turn it is to use a key: one connection for each is all that Finnhub allows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from stocktrace.deadline import Clock, Deadline
from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings
from stocktrace.store import lock
from stocktrace.store.names import new_session

# What a hand-over costs at most, beside the new connection.
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Turn:
    """The beginning of a session that has the key.

    ``began`` (epoch ns) is when the connection of whoever was waited for ended, so that this
    coverage begins where the other's ends; ``after`` names the other, and is empty if the key was
    free.
    """

    session: str
    began: int
    after: str
    place: lock.Place


@contextlib.contextmanager
def taken(key: str, settings: Settings, stopping: threading.Event, clock: Clock) -> Iterator[Turn]:
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
            holding = lock.one_capture_per_key(key, settings.url, session)
            try:
                place = stack.enter_context(holding)
                break
            except KeyInUse as error:
                after = f"hand-over from {error.holder}"
                if patience.passed() or stopping.wait(LOOK_EVERY_S):
                    raise
        if after and place.ended is not None:  # it was not killed
            began = place.ended
        yield Turn(session, began, after, place)
