"""The machine's two clocks, deadlines on them, and the detection of jumps and pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stocktrace.units import NS_PER_SECOND

#: A clock before 2018-01-01 (epoch ns) was never set: Finnhub is younger.
PLAUSIBLE_SINCE_NS = 1_514_764_800 * NS_PER_SECOND


def was_first_set(before: int, after: int) -> bool:
    """Return ``True`` if the clock was first set between two of its times (epoch ns).

    A suspend cannot look like that: the machine did not run at the earlier time.
    """
    return before < PLAUSIBLE_SINCE_NS <= after


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of this machine; tests replace them.

    ``wall`` returns nanoseconds since the epoch (UTC) and may step; it is only used to stamp data.
    ``monotonic`` returns seconds and never steps; every timer uses it.
    """

    wall: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic


SYSTEM_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, or also on the wall clock; whichever comes first.

    The wall clock matters after a suspend: Linux's monotonic clock does not run during it, but
    "until 16:00" may have passed.
    """

    at_monotonic: float
    at_wall_ns: int | None = None
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(clock.monotonic() + seconds, None, clock)

    @classmethod
    def at(cls, wall_ns: int, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline at a wall-clock time, in nanoseconds since the epoch."""
        seconds = (wall_ns - clock.wall()) / NS_PER_SECOND
        return cls(clock.monotonic() + seconds, wall_ns, clock)

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        seconds = self.at_monotonic - self.clock.monotonic()
        if self.at_wall_ns is not None:
            seconds = min(seconds, (self.at_wall_ns - self.clock.wall()) / NS_PER_SECOND)
        return max(0.0, seconds)

    def passed(self) -> bool:
        """Return True if no time is left."""
        return self.remaining() == 0.0


# The feed checks four times a second; a busy disk or processor can delay that by a second or two.
PAUSE_S = 5.0
# Clocks are slewed by less than a millisecond a second (adjtimex); a larger difference is a step.
STEP_S = 1.0


@dataclass(slots=True)
class ClockJumpDetector:
    """Compares both clocks with the last check, to detect a suspend, a stall or a set clock.

    ``wall`` (epoch ns) and ``monotonic`` are the last check, ``previous_wall`` the one before it,
    and between these the wall clock was set by ``stepped_s``, if at all.
    """

    wall: int
    monotonic: float
    previous_wall: int = 0
    stepped_s: float = 0.0

    def check(self, wall: int, monotonic: float) -> str | None:
        """Describe what happened since the last check, or return ``None``."""
        passed = monotonic - self.monotonic
        stepped = (wall - self.wall) / NS_PER_SECOND - passed
        self.previous_wall, self.wall, self.monotonic = self.wall, wall, monotonic
        self.stepped_s = stepped if abs(stepped) > STEP_S else 0.0
        if stepped < -STEP_S:
            return f"the clock was set back by {-stepped:.1f} s"
        if was_first_set(self.previous_wall, wall):
            return f"the clock was first set, {stepped:.0f} s forward"
        if stepped > STEP_S:
            # A suspend looks the same: Linux's monotonic clock does not run during it.
            return f"suspended, or the clock was set forward by {stepped:.1f} s"
        if passed > PAUSE_S:
            return f"suspended or stalled for {passed:.1f} s"
        return None
