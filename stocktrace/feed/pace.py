"""How often a busy connection is read: what a read costs is shared by more trades."""

from __future__ import annotations

# A read costs about 0.3 ms whatever it brings: a wake-up with cold caches, a write to the tape
# (docs/performance.md). Receive times are of a read, so they are late by as much.
GATHER_S = 0.01
# What makes a connection busy: 0.8 MB/s, about 12,000 trades a second. A free key has tens.
_LOOK_S = 0.05
_BUSY_BYTES = 40_000


class Pace:
    """Tells how long to wait after a read, from what the last twentieth of a second brought."""

    def __init__(self, now: float) -> None:
        self._until = now + _LOOK_S
        self._bytes = 0
        self._busy = False

    def after(self, size: int, now: float, *, drained: bool = True) -> float:
        """Seconds to wait after a read of ``size`` bytes at ``now`` (monotonic seconds).

        Where the socket was not ``drained``, more is there already.
        """
        if now >= self._until:
            # A look that lasted longer than it should was of a connection that had nothing to say.
            self._busy = self._bytes >= _BUSY_BYTES and now < self._until + _LOOK_S
            self._until, self._bytes = now + _LOOK_S, 0
        self._bytes += size
        return GATHER_S if self._busy and drained else 0.0
