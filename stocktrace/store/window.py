"""Windows: stretches of a session that have a tape and segments of their own."""

from __future__ import annotations

from dataclasses import dataclass

from stocktrace.units import NS_PER_DAY, NS_PER_SECOND, utc_datetime


def compact_utc(stamp: int) -> str:
    """Return ``stamp`` (epoch ns) as ``20261123T143000Z``, truncated to the second."""
    return utc_datetime(stamp).strftime("%Y%m%dT%H%M%SZ")


def utc_date(stamp: int) -> str:
    """Return the UTC date of ``stamp`` (epoch ns): ``2026-11-23``."""
    return utc_datetime(stamp).date().isoformat()


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One window: frames received at ``start`` <= t < ``end`` (epoch ns), within one UTC day.

    ``number`` counts the session's windows from 1, so that names are unique if a window was rolled
    by size or the clock stepped back. ``opened`` is when its first frame was received.
    """

    session: str
    number: int
    start: int
    end: int
    opened: int

    @property
    def name(self) -> str:
        """``<opened, UTC>_<number>``: sorts by time."""
        return f"{compact_utc(self.opened)}_{self.number:05}"


@dataclass(frozen=True, slots=True)
class RollPolicy:
    """When a window ends: every ``every_s`` seconds of the UTC day, at midnight, and on size."""

    every_s: float
    max_bytes: int

    def open(self, session: str, number: int, stamp: int) -> WindowSpec:
        """Return a new window for frames received at ``stamp``."""
        midnight = stamp - stamp % NS_PER_DAY
        every = int(self.every_s * NS_PER_SECOND)
        start = stamp - (stamp - midnight) % every
        return WindowSpec(session, number, start, min(start + every, midnight + NS_PER_DAY), stamp)

    def due(self, window: WindowSpec, stamp: int, size: int) -> bool:
        """Return whether a frame received at ``stamp`` begins a new window.

        ``size`` is that of the window's tape. A clock that stepped back before the window's start
        ends the window, too: a closed window is never opened again.
        """
        return not window.start <= stamp < window.end or size >= self.max_bytes
