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
    _sign: int = 0
    _sign_at: float = 0.0

    def dialled(self, monotonic: float) -> None:
        """A connection stands that nothing was heard on: should it end, the loss goes on."""
        self._sign, self._sign_at = self.since, monotonic

    def sign(self, stamp: int, monotonic: float) -> None:
        """A sign of life."""
        self._sign, self._sign_at = stamp, monotonic

    def noticed(self, stamp: int, monotonic: float, reason: str) -> None:
        """The connection is lost."""
        self.since, self.reason = self._sign, reason
        if self._sign > stamp:  # the clock was set back since
            self.since = stamp - int((monotonic - self._sign_at) * NS_PER_SECOND)

    def over(self, stamp: int, tickers: tuple[str, ...]) -> Gap | None:
        """``tickers`` are listened to from now on; the gap that they had, if there was a loss."""
        if not self.since:
            return None
        gap = Gap(self.since, stamp, tickers, self.reason)
        self.since = 0
        return gap
