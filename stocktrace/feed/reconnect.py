"""When a connection counts as lost, when to reconnect, and since when nobody listens.

Pure: callers pass the times, in monotonic seconds unless they are named ``stamp`` (epoch ns).

``KeepaliveMonitor`` never takes "no trades" for a reason, because an illiquid ticker is silent for
hours. Any received byte is a sign of life (docs/faults.md 1, 2, 4, 5, 7, 20):

- *ping unanswered*: no byte arrived within ``pong_timeout`` of our ping. Servers need not answer
  pings (docs/finnhub.md): one that sends frames but no pong is not pinged any more, and the idle
  timeout applies.
- *half a frame*: a frame began and then no byte came for ``frame_timeout``, or it was not complete
  after ``MAX_FRAME_S``.
- *no frame*: no byte for ``idle_timeout``; Finnhub sends a heartbeat about every 60 s.

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

from stocktrace.clock import was_first_set
from stocktrace.intervals import CONNECTING
from stocktrace.marks import GapMark
from stocktrace.settings import Settings
from stocktrace.units import NS_PER_SECOND

# A frame of 10 MB takes a minute at 1.3 Mbit/s; a slower server is not usable.
MAX_FRAME_S = 60.0
# Finnhub answers too many attempts with 429, and wants minutes, not seconds (docs/finnhub.md,
# "Connection").
RATE_LIMIT_FLOOR_S = 60.0
RATE_LIMIT_CAP_S = 600.0
# So many connections in a row that are shorter than this are hardly caused by the network.
SHORT_CONNECTION_S = 10.0
SHORT_CONNECTIONS = 3


@dataclass(slots=True)
class KeepaliveMonitor:
    """The signs of life of the connection that was opened last, and when it needs a ping."""

    settings: Settings
    #: ``None`` until the server has answered one, or has let one time out.
    answers_pings: bool | None = None
    _last_byte: float = 0.0
    _pinged: float | None = None
    _next_ping: float = 0.0
    _frame_since: float | None = None

    def connection_opened(self, now: float) -> None:
        """Take in a connection; ``answers_pings`` is still valid for it."""
        self._last_byte, self._next_ping = now, now + self.settings.ping_interval
        self._pinged = self._frame_since = None

    def received(self, now: float, *, completed: bool, in_frame: bool, pong: bool) -> None:
        """Take in bytes: they ``completed`` a frame, they end ``in_frame``, they had a ``pong``."""
        self._last_byte = now
        if not in_frame:
            self._frame_since = None
        elif completed or self._frame_since is None:
            self._frame_since = now
        if pong:
            self.answers_pings = True
            self._pinged = None

    def ping_due(self, now: float) -> bool:
        """Return ``True`` if a ping must be sent now; the caller then sends it."""
        if self.answers_pings is False or self._pinged is not None or now < self._next_ping:
            return False
        self._pinged = now
        self._next_ping = now + self.settings.ping_interval
        return True

    def failure(self, now: float) -> str | None:
        """Return why the connection counts as lost, or ``None``."""
        silent = now - self._last_byte
        timeouts = self.settings
        if self._frame_since is not None:
            if silent >= timeouts.frame_timeout:
                return f"half a frame, then nothing for {timeouts.frame_timeout:g} s"
            if now - self._frame_since >= MAX_FRAME_S:
                return f"a frame not complete after {MAX_FRAME_S:g} s"
        if self._pinged is not None and now - self._pinged >= timeouts.pong_timeout:
            if self._last_byte <= self._pinged:
                return f"ping unanswered for {timeouts.pong_timeout:g} s"
            # Frames but no pong: perhaps this server never answers pings.
            self._pinged = None
            self.answers_pings = self.answers_pings or False
        if silent >= timeouts.idle_timeout:
            return f"no frame for {timeouts.idle_timeout:g} s"
        return None


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
    """The current gap; ``since`` (epoch ns) is 0 without one. Uses both clocks.

    ``reason`` is that of the loss, ``failure`` why the last attempt failed.
    """

    since: int = 0
    reason: str = CONNECTING
    failure: str = ""
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
        """Begin a gap at the last sign of life, unless there is one: then an attempt failed."""
        if self.since:
            self.attempt_failed(reason)
        else:
            self.reason, self.failure = reason, ""
        self.since, self._since_monotonic = self._sign, self._sign_monotonic
        self._correct_for_clock_jump(stamp, monotonic)

    def attempt_failed(self, reason: str) -> None:
        """Take in why an attempt failed."""
        self.failure = reason if reason != self.reason else ""

    def end_gap(self, stamp: int, monotonic: float) -> GapMark | None:
        """End the gap, if there is one, and return it."""
        if not self.since:
            return None
        self._correct_for_clock_jump(stamp, monotonic)
        causes = [self.reason, self.failure] if self.reason != CONNECTING else [self.failure]
        gap = GapMark(stamp, self.since, "; then ".join(filter(None, causes)) or CONNECTING)
        self.since = 0
        return gap

    def _correct_for_clock_jump(self, stamp: int, monotonic: float) -> None:
        """Take the gap's length from the monotonic clock, if the wall clock cannot have it."""
        if self.since > stamp or was_first_set(self.since, stamp):
            self.since = stamp - int((monotonic - self._since_monotonic) * NS_PER_SECOND)
