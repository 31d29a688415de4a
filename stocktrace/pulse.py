"""Notices that time passed without us, or that the clock was set. Pure: told of both clocks."""

from __future__ import annotations

from dataclasses import dataclass

# The feed looks up four times a second; a busy disk or processor can make that a second or two.
PAUSE_S = 5.0
# Clocks are slewed by less than a millisecond a second (adjtimex); a larger difference is a step.
STEP_S = 1.0


@dataclass(slots=True)
class Pulse:
    """The last beat on both clocks; ``before`` is the wall clock (epoch ns) of the one before."""

    wall: int
    monotonic: float
    before: int = 0

    def beat(self, wall: int, monotonic: float) -> str | None:
        """What happened since the last beat, in words, or ``None``."""
        passed = monotonic - self.monotonic
        stepped = (wall - self.wall) / 1e9 - passed
        self.before, self.wall, self.monotonic = self.wall, wall, monotonic
        if stepped < -STEP_S:
            return f"the clock was set back by {-stepped:.1f} s"
        if stepped > STEP_S:
            # A machine that slept looks the same: Linux's monotonic clock stands still meanwhile.
            return f"suspended, or the clock was set forward by {stepped:.1f} s"
        if passed > PAUSE_S:
            return f"suspended or stalled for {passed:.1f} s"
        return None
