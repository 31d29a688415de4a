"""How long to wait before the next dial.

Full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015): the wait before attempt *n*
is uniform in [floor, max(floor, min(cap, base * 2^(n-1)))]. The floor leaves the server time to
drop the old socket: Finnhub kills the newer one while the older lives (FINNHUB.md, #158). Only a
connection that stayed for ``stable_s`` counts as success; one that came and went does not reset
the count (cryptofeed: 1,531 dials in 4 s).
"""
# MERGED """Does somebody else use the key? (FINNHUB.md, #158.) Pure: told of each life, in seconds.
#
# The server says nothing of it: it ends one of the two connections, or both, again and again.
# """
# MERGED """Since when nobody listens, and why. Pure: told of what happens, on both clocks.
#
# A loss is noticed only after it began: it began with the last sign of life.
# """

from __future__ import annotations

import random
from dataclasses import dataclass, field

from stocktrace.intervals import CONNECTING, Gap
from stocktrace.units import NS_PER_SECOND

# Finnhub answers too many dials with 429 and wants minutes, not seconds (FINNHUB.md, "Connection").
RATE_LIMIT_FLOOR_S = 60.0
RATE_LIMIT_CAP_S = 600.0


@dataclass(slots=True)
class Backoff:
    """The waits of one feed; ask ``wait`` before each dial but the first."""

    base_s: float
    cap_s: float
    floor_s: float
    stable_s: float
    random: random.Random = field(default_factory=random.SystemRandom, repr=False)
    failures: int = 0

    def next_delay(self, *, too_many_dials: bool = False) -> float:
        """Seconds to wait now, after another failure; ``too_many_dials`` after an HTTP 429."""
        self.failures += 1
        # 2^30 s is beyond any cap; the bound keeps the float finite after years of failures.
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(self.failures - 1, 30))
        floor = self.floor_s
        if too_many_dials:
            floor = max(floor, RATE_LIMIT_FLOOR_S)
            ceiling = min(RATE_LIMIT_CAP_S, floor * 2.0 ** min(self.failures, 30))
        return self.random.uniform(floor, max(floor, ceiling))

    def connection_ended(self, seconds: float) -> None:
        """A connection ended that had lived for ``seconds``."""
        if seconds >= self.stable_s:
            self.failures = 0


# Lives shorter than this, so many in a row, are hardly the network's doing.
SHORT_CONNECTION_S = 10.0
SHORT_CONNECTIONS = 3


@dataclass(slots=True)
class SharedKeyDetector:
    """Somebody else with the same key, as far as the lives of our connections tell."""

    _short_lives: int = 0

    def connection_ended(self, lived: float) -> str | None:
        """A connection ended that had lived for ``lived``; the suspicion, the moment it arises."""
        self._short_lives = self._short_lives + 1 if lived < SHORT_CONNECTION_S else 0
        if self._short_lives != SHORT_CONNECTIONS:
            return None
        return (
            f"{SHORT_CONNECTIONS} connections in a row ended within {SHORT_CONNECTION_S:g} s: "
            "is this API key in use elsewhere?"
        )


@dataclass(slots=True)
class GapTracker:
    """The loss that is under way; ``since`` (epoch ns) is 0 while there is none."""

    since: int = 0
    reason: str = CONNECTING
    _since_at: float = 0.0
    _sign: int = 0
    _sign_at: float = 0.0

    def start(self, stamp: int, monotonic: float) -> None:
        """The first dial: nobody listens yet, or any more since ``since``."""
        self.since = self.since or stamp
        self._since_at = monotonic - (stamp - self.since) / NS_PER_SECOND

    def dial_started(self) -> None:
        """A connection stands that nothing was heard on: should it end, the loss goes on."""
        self._sign, self._sign_at = self.since, self._since_at

    def data_received(self, stamp: int, monotonic: float) -> None:
        """A sign of life."""
        self._sign, self._sign_at = stamp, monotonic

    def disconnected(self, stamp: int, monotonic: float, reason: str) -> None:
        """The connection is lost."""
        self.reason = reason
        self.since, self._since_at = self._sign, self._sign_at
        self._correct_for_clock_jump(stamp, monotonic)

    def end_gap(self, stamp: int, monotonic: float, tickers: tuple[str, ...]) -> Gap | None:
        """``tickers`` are listened to from now on; the gap that they had, if there was a loss."""
        if not self.since:
            return None
        self._correct_for_clock_jump(stamp, monotonic)
        gap = Gap(self.since, stamp, tickers, self.reason)
        self.since = 0
        return gap

    def _correct_for_clock_jump(self, stamp: int, monotonic: float) -> None:
        """Where it was set back since the loss began, the other one tells how long that was ago."""
        if self.since > stamp:
            self.since = stamp - int((monotonic - self._since_at) * NS_PER_SECOND)
