"""Which ticker does an error mean that names none? (Finnhub #20.) Pure: told, and asked.

A subscribe is not acknowledged, so after "Invalid symbol" or "Subscribing to too many symbols"
any ticker that has not traded yet may be the one. They are asked for again, one at a time: the one
whose request is answered by an error is refused. Asking again for a ticker that is subscribed
changes nothing. Those asked for last come first: the one too many is mostly one of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# An error came back within 0.2 s where it was measured; more leaves room for a slow line.
ANSWER_S = 1.0
ABOUT_SYMBOLS = ("invalid symbol", "too many symbols")


def named(text: str, tickers: Iterable[str]) -> str | None:
    """The ticker that an error text names: ``Invalid symbol FX:EURUSD``."""
    words = text.rpartition("symbol ")[2].strip()
    return next((ticker for ticker in tickers if ticker == words), None)


def is_about_symbols(text: str) -> bool:
    """Whether an error says that a subscription was refused."""
    return any(phrase in text.lower() for phrase in ABOUT_SYMBOLS)


@dataclass(slots=True)
class Probe:
    """The suspects of one connection, asked one by one; seconds are monotonic."""

    has_traded: Callable[[str], bool]
    _suspects: deque[str] = field(default_factory=deque)
    _latest: tuple[str, ...] = ()
    _asked: str | None = None
    _until: float = 0.0

    def requested(self, tickers: Iterable[str], now: float) -> None:
        """More tickers were asked for: the next errors may mean them."""
        self._latest, self._until = tuple(tickers), now + ANSWER_S
        if self._asked is not None:  # its answer can no longer be told from theirs
            self._suspects.appendleft(self._asked)
            self._asked = None
        if self._suspects:
            self._suspects.extendleft(reversed(self._latest))

    def withdrawn(self, tickers: Iterable[str]) -> None:
        """These are not wanted any more: to ask for one again would subscribe it."""
        gone = set(tickers)
        self._suspects = deque(ticker for ticker in self._suspects if ticker not in gone)

    def error(self, text: str, tickers: Iterable[str], now: float) -> str | None:
        """An error came; gives the ticker that it means, if that is known by now."""
        culprit = named(text, tickers)
        if culprit is not None:
            if culprit in self._suspects:
                self._suspects.remove(culprit)
            return culprit
        if self._asked is not None:
            culprit, self._asked = self._asked, None
            return culprit
        if not self._suspects and is_about_symbols(text):
            latest = [ticker for ticker in tickers if ticker in self._latest]
            self._suspects.extend(dict.fromkeys([*latest, *tickers]))
            self._until = now + ANSWER_S  # errors of the first requests may still be on their way
        return None

    def next(self, now: float) -> str | None:
        """The ticker to ask for again now, if it is time."""
        if now < self._until:
            return None
        self._asked = None
        while self._suspects:
            ticker = self._suspects.popleft()
            if not self.has_traded(ticker):
                self._asked, self._until = ticker, now + ANSWER_S
                return ticker
        return None
