"""When a connection counts as lost. Pure: callers pass the times, in monotonic seconds.

"No trades" is never a reason, because an illiquid ticker is silent for hours. Any received byte is
a sign of life. The rules (docs/faults.md 1, 2, 4, 5, 7, 20):

- *ping unanswered*: no byte arrived within ``pong_timeout_s`` of our ping. Servers need not answer
  pings (docs/finnhub.md): one that sends frames but no pong is not pinged any more, and the idle
  timeout applies.
- *half a frame*: a frame began and then no byte came for ``frame_timeout_s``, or it was not
  complete after ``MAX_FRAME_S``.
- *no frame*: no byte for ``idle_timeout_s``; Finnhub sends a heartbeat about every 60 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A frame of 10 MB takes a minute at 1.3 Mbit/s; a slower server is not usable.
MAX_FRAME_S = 60.0


@dataclass(slots=True)
class KeepaliveMonitor:
    """The signs of life of one connection, opened at ``opened``."""

    ping_interval_s: float
    pong_timeout_s: float
    frame_timeout_s: float
    idle_timeout_s: float
    opened: float
    answers_pings: bool | None = None
    _last_byte: float = field(init=False)
    _pinged: float | None = field(init=False, default=None)
    _next_ping: float = field(init=False)
    _frame_since: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._last_byte = self.opened
        self._next_ping = self.opened + self.ping_interval_s

    def received(self, now: float, *, completed: bool, in_frame: bool, pong: bool) -> None:
        """Take in that bytes arrived.

        ``completed``: they completed a frame. ``in_frame``: they end within one.
        """
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
        self._next_ping = now + self.ping_interval_s
        return True

    def failure(self, now: float) -> str | None:
        """Return why the connection counts as lost, or ``None``."""
        silent = now - self._last_byte
        if self._frame_since is not None:
            if silent >= self.frame_timeout_s:
                return f"half a frame, then nothing for {self.frame_timeout_s:g} s"
            if now - self._frame_since >= MAX_FRAME_S:
                return f"a frame not complete after {MAX_FRAME_S:g} s"
        if self._pinged is not None and now - self._pinged >= self.pong_timeout_s:
            if self._last_byte <= self._pinged:
                return f"ping unanswered for {self.pong_timeout_s:g} s"
            # Frames but no pong: perhaps this server never answers pings.
            self._pinged = None
            self.answers_pings = self.answers_pings or False
        if silent >= self.idle_timeout_s:
            return f"no frame for {self.idle_timeout_s:g} s"
        return None
