"""When a connection is dead. Pure: told of what happens, asked after each read, monotonic seconds.

"No trades" is never a reason: an illiquid ticker is silent for hours. Signs of life are bytes. The
rules, and the stories behind them (FAULTS.md 1, 2, 4, 5, 7, 20):

- *ping unanswered*: a ping of ours brought no byte in ``pong_timeout_s``. That a server answers
  pings is only likely (FINNHUB.md); one that was seen to send frames but never a pong is asked no
  more, and has the frame deadline instead.
- *half a frame*: a frame began and then no byte came for ``frame_timeout_s``, or it was not complete
  after ``FRAME_TOTAL_S``.
- *no frame*: not a byte for ``idle_timeout_s``; Finnhub sends a heartbeat about every 60 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A 10 MB frame takes a minute at 1.3 Mbit/s; slower than that is a server that drips.
MAX_FRAME_S = 60.0


@dataclass(slots=True)
class KeepaliveMonitor:
    """The signs of life of one connection, opened at ``now``."""

    ping_interval_s: float
    pong_timeout_s: float
    frame_timeout_s: float
    idle_timeout_s: float
    now: float
    answers_pings: bool | None = None
    _alive: float = field(init=False)
    _pinged: float | None = field(init=False, default=None)
    _next_ping: float = field(init=False)
    _frame_since: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._alive = self.now
        self._next_ping = self.now + self.ping_interval_s

    def received(self, now: float, *, completed: bool, in_frame: bool, pong: bool) -> None:
        """Bytes came: they ``completed`` a frame, and the last of them is ``in_frame``, or not."""
        self._alive = now
        if not in_frame:
            self._frame_since = None
        elif completed or self._frame_since is None:
            self._frame_since = now
        if pong:
            self.answers_pings = True
            self._pinged = None

    def ping_due(self, now: float) -> bool:
        """Whether to send a ping now; the answer yes starts its clock."""
        if self.answers_pings is False or self._pinged is not None or now < self._next_ping:
            return False
        self._pinged = now
        self._next_ping = now + self.ping_interval_s
        return True

    def failure(self, now: float) -> str | None:
        """Why the connection is dead, or ``None``."""
        silent = now - self._alive
        if self._frame_since is not None:
            if silent >= self.frame_timeout_s:
                return f"half a frame, then nothing for {self.frame_timeout_s:g} s"
            if now - self._frame_since >= MAX_FRAME_S:
                return f"a frame not complete after {MAX_FRAME_S:g} s"
        if self._pinged is not None and now - self._pinged >= self.pong_timeout_s:
            if self._alive <= self._pinged:
                return f"ping unanswered for {self.pong_timeout_s:g} s"
            # Frames, but no pong: alive, and perhaps one that never answers.
            self._pinged = None
            self.answers_pings = self.answers_pings or False
        if silent >= self.idle_timeout_s:
            return f"no frame for {self.idle_timeout_s:g} s"
        return None
