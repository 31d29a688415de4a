"""When to reconnect, and since when nobody listens. Pure: callers pass the times.

``Backoff`` uses full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015): the delay
before attempt *n* is uniform in [floor, max(floor, min(cap, base * 2^(n-1)))]. With the floor,
the server has time to drop the old socket: Finnhub closes the newer one while the older one is open
(docs/finnhub.md, #158). A connection must last ``stable_after_s`` to reset the delays (cryptofeed:
1,531 attempts in 4 s).

``SharedKeyDetector`` suspects that another client uses the key (docs/finnhub.md, #158). The server
does not say so: it closes one of the two connections, or both, again and again.

``GapTracker`` dates a gap. A disconnect is detected late, so the gap begins at the last sign of
life.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from stocktrace.intervals import CONNECTING
from stocktrace.marks import GapMark
from stocktrace.units import NS_PER_SECOND

# Finnhub answers too many attempts with 429, and wants minutes, not seconds (docs/finnhub.md,
# "Connection").
RATE_LIMIT_FLOOR_S = 60.0
RATE_LIMIT_CAP_S = 600.0


@dataclass(slots=True)
class Backoff:
    """The delays of one feed; call ``next_delay`` before each attempt but the first."""

    base_s: float
    cap_s: float
    floor_s: float
    stable_after_s: float
    random: random.Random = field(default_factory=random.SystemRandom, repr=False)
    failures: int = 0

    def next_delay(self, *, rate_limited: bool = False) -> float:
        """Return the seconds to wait after another failure; ``rate_limited`` after an HTTP 429."""
        self.failures += 1
        # 2^30 s exceeds any cap; the bound keeps the float finite after years of failures.
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(self.failures - 1, 30))
        floor = self.floor_s
        if rate_limited:
            floor = max(floor, RATE_LIMIT_FLOOR_S)
            ceiling = min(RATE_LIMIT_CAP_S, floor * 2.0 ** min(self.failures, 30))
        return self.random.uniform(floor, max(floor, ceiling))

    def connection_ended(self, seconds: float) -> None:
        """Take in that a connection ended after ``seconds``."""
        if seconds >= self.stable_after_s:
            self.failures = 0


# So many connections in a row that are shorter than this are hardly caused by the network.
SHORT_CONNECTION_S = 10.0
SHORT_CONNECTIONS = 3


@dataclass(slots=True)
class SharedKeyDetector:
    """Counts short connections in a row."""

    _short_connections: int = 0

    def connection_ended(self, seconds: float) -> str | None:
        """Take in that a connection ended; return the suspicion when it arises."""
        short = seconds < SHORT_CONNECTION_S
        self._short_connections = self._short_connections + 1 if short else 0
        if self._short_connections != SHORT_CONNECTIONS:
            return None
        return (
            f"{SHORT_CONNECTIONS} connections in a row ended within {SHORT_CONNECTION_S:g} s: "
            "is this API key in use elsewhere?"
        )


@dataclass(slots=True)
class GapTracker:
    """The current gap; ``since`` (epoch ns) is 0 without one. Uses both clocks."""

    since: int = 0
    reason: str = CONNECTING
    _since_monotonic: float = 0.0
    _sign: int = 0
    _sign_monotonic: float = 0.0

    def start(self, stamp: int, monotonic: float) -> None:
        """Begin before the first attempt: nobody listens yet, or since ``since``."""
        self.since = self.since or stamp
        self._since_monotonic = monotonic - (stamp - self.since) / NS_PER_SECOND

    def connection_opened(self) -> None:
        """Take in a connection without data so far: if it ends, the gap continues."""
        self._sign, self._sign_monotonic = self.since, self._since_monotonic

    def data_received(self, stamp: int, monotonic: float) -> None:
        """Take in a sign of life."""
        self._sign, self._sign_monotonic = stamp, monotonic

    def disconnected(self, stamp: int, monotonic: float, reason: str) -> None:
        """Begin a gap at the last sign of life."""
        self.reason = reason
        self.since, self._since_monotonic = self._sign, self._sign_monotonic
        self._correct_for_clock_jump(stamp, monotonic)

    def end_gap(self, stamp: int, monotonic: float) -> GapMark | None:
        """End the gap, if there is one, and return it."""
        if not self.since:
            return None
        self._correct_for_clock_jump(stamp, monotonic)
        gap = GapMark(stamp, self.since, self.reason)
        self.since = 0
        return gap

    def _correct_for_clock_jump(self, stamp: int, monotonic: float) -> None:
        """If the wall clock was set back, take the gap's length from the monotonic clock."""
        if self.since > stamp:
            self.since = stamp - int((monotonic - self._since_monotonic) * NS_PER_SECOND)
