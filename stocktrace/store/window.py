"""Windows: the stretches of a session that share a tape and its segments.

A roll is a question with the clock as an argument: ``RollPolicy.due(window, stamp, size)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from stocktrace.units import NS_PER_DAY, NS_PER_SECOND


def compact_utc(stamp: int) -> str:
    """``stamp`` (epoch ns) as ``20261123T143000Z``, cut to the second."""
    return datetime.fromtimestamp(stamp // NS_PER_SECOND, UTC).strftime("%Y%m%dT%H%M%SZ")


def utc_date(stamp: int) -> str:
    """The UTC date of ``stamp`` (epoch ns), ``2026-11-23``."""
    return datetime.fromtimestamp(stamp // NS_PER_SECOND, UTC).date().isoformat()


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One window: frames received at ``start`` <= t < ``end`` (epoch ns), never over UTC midnight.

    ``number`` counts the session's windows from 1, so that a window that was rolled by size, or
    begun anew after the clock stepped back, has a name of its own. ``opened`` is when the first of
    it was received.
    """

    session: str
    number: int
    start: int
    end: int
    opened: int

    @property
    def name(self) -> str:
        """``<opened, UTC>_<number>``; sorts by time, and the number as it was recorded."""
        return f"{compact_utc(self.opened)}_{self.number:05}"


@dataclass(frozen=True, slots=True)
class RollPolicy:
    """When a window ends: every ``every_s`` seconds of the UTC day, at midnight, and on size."""

    every_s: float
    max_bytes: int

    def open(self, session: str, number: int, stamp: int) -> WindowSpec:
        """The window of the frames received at ``stamp``."""
        midnight = stamp - stamp % NS_PER_DAY
        every = int(self.every_s * NS_PER_SECOND)
        start = stamp - (stamp - midnight) % every
        return WindowSpec(session, number, start, min(start + every, midnight + NS_PER_DAY), stamp)

    def due(self, window: WindowSpec, stamp: int, size: int) -> bool:
        """Whether what is received at ``stamp`` belongs to a new window; ``size`` is the tape's.

        A clock that stepped back before the window's start ends it too: a window holds no time but
        its own, and nothing that was closed is opened again.
        """
        return not window.start <= stamp < window.end or size >= self.max_bytes
