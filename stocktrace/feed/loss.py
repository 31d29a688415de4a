"""Since when nobody listens, and why. Pure: told of what happens, on both clocks.

A loss is noticed only after it began: it began with the last sign of life.
"""

from __future__ import annotations

from dataclasses import dataclass

from stocktrace.deadline import NS_PER_SECOND
from stocktrace.gap import CONNECTING, Gap


@dataclass(slots=True)
class Loss:
    """The loss that is under way; ``since`` (epoch ns) is 0 while there is none."""

    since: int = 0
    reason: str = CONNECTING
    _since_at: float = 0.0
    _sign: int = 0
    _sign_at: float = 0.0

    def begin(self, stamp: int, monotonic: float) -> None:
        """The first dial: nobody listens yet, or any more since ``since``."""
        self.since = self.since or stamp
        self._since_at = monotonic - (stamp - self.since) / NS_PER_SECOND

    def dialled(self) -> None:
        """A connection stands that nothing was heard on: should it end, the loss goes on."""
        self._sign, self._sign_at = self.since, self._since_at

    def sign(self, stamp: int, monotonic: float) -> None:
        """A sign of life."""
        self._sign, self._sign_at = stamp, monotonic

    def noticed(self, stamp: int, monotonic: float, reason: str) -> None:
        """The connection is lost."""
        self.reason = reason
        self.since, self._since_at = self._sign, self._sign_at
        self._mind_the_clock(stamp, monotonic)

    def over(self, stamp: int, monotonic: float, tickers: tuple[str, ...]) -> Gap | None:
        """``tickers`` are listened to from now on; the gap that they had, if there was a loss."""
        if not self.since:
            return None
        self._mind_the_clock(stamp, monotonic)
        gap = Gap(self.since, stamp, tickers, self.reason)
        self.since = 0
        return gap

    def _mind_the_clock(self, stamp: int, monotonic: float) -> None:
        """Where it was set back since the loss began, the other one tells how long that was ago."""
        if self.since > stamp:
            self.since = stamp - int((monotonic - self._since_at) * NS_PER_SECOND)
