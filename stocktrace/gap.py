"""Stretches of time in which we listened, and in which we did not."""

from __future__ import annotations

from dataclasses import dataclass

#: The reason of a gap before the first connection stood, or a ticker was first asked for.
CONNECTING = "connecting"


@dataclass(frozen=True, slots=True)
class Gap:
    """From ``start`` to ``end`` (UTC epoch ns) nothing of ``tickers`` could reach us.

    ``start`` is the last sign of life before the loss, ``end`` when the tickers had been asked for
    again: trades near both edges may have come all the same.
    """

    start: int
    end: int
    tickers: tuple[str, ...]
    reason: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start) / 1e9


@dataclass(frozen=True, slots=True)
class Interval:
    """One stretch of one ticker, ``start`` <= t < ``end`` (epoch ns).

    ``reason`` is empty while it is listened to, else says why it is not; ``by`` are the sessions
    that listened, where that is not the one whose stretch it is: in a merge.
    """

    ticker: str
    start: int
    end: int
    reason: str
    by: str = ""
