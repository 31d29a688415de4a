"""The tickers of one connection, and which of them the server refuses.

Finnhub does not acknowledge a subscription, and its error frame may not name the ticker (Finnhub
#20): after "Invalid symbol" or "Subscribing to too many symbols" it may mean any ticker. So
``RefusalProbe`` subscribes the suspects again, one at a time, and the one whose request is answered
by an error is refused. Each is unsubscribed just before: nobody knows whether a ticker that is
subscribed twice is sent twice, or counts twice (docs/finnhub.md, "What is unverified"). A ticker
that has traded, before or while the probe runs, is not a suspect and is never refused. The tickers
that were added last come first, because one of them is the most likely cause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field

from stocktrace.clock import Clock
from stocktrace.feed import protocol
from stocktrace.feed.socket import BatchSocket


class Subscription:
    """The tickers of ``socket``, whose exceptions pass through; see ``RefusalProbe``."""

    def __init__(
        self, socket: BatchSocket, clock: Clock, already_traded: Container[str] = ()
    ) -> None:
        self._socket = socket
        self._clock = clock
        self.probe = RefusalProbe(already_traded)
        #: The tickers that the server was asked for.
        self.tickers: tuple[str, ...] = ()

    def change(self, wanted: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Subscribe and unsubscribe what differs from ``wanted``; return both lists."""
        current = set(self.tickers)
        added = [ticker for ticker in wanted if ticker not in current]
        removed = sorted(current.difference(wanted))
        for ticker in removed:
            self._socket.send(protocol.unsubscribe(ticker))
        for ticker in added:
            self._socket.send(protocol.subscribe(ticker))
        self.tickers = wanted
        self.probe.unsubscribed(removed)
        if added:
            self.probe.subscribed(added, self._clock.monotonic())
        return added, removed


# Errors were measured to arrive within 0.2 s; the rest is for slow lines.
ANSWER_TIMEOUT_S = 1.0
SYMBOL_ERRORS = ("invalid symbol", "too many symbols")


def find_named_ticker(text: str, tickers: Iterable[str]) -> str | None:
    """Return the ticker that an error text names: ``Invalid symbol FX:EURUSD``."""
    name = text.rpartition("symbol ")[2].strip()
    return next((ticker for ticker in tickers if ticker == name), None)


def is_symbol_error(text: str) -> bool:
    """Return ``True`` if an error says that a subscription was refused."""
    return any(phrase in text.lower() for phrase in SYMBOL_ERRORS)


@dataclass(slots=True)
class RefusalProbe:
    """The suspects of one connection, asked for one at a time; seconds are monotonic.

    ``already_traded`` are the tickers known to have traded; the caller adds to it.
    """

    already_traded: Container[str] = ()
    _served: set[str] = field(default_factory=set)
    _suspects: deque[str] = field(default_factory=deque)
    _refused: set[str] = field(default_factory=set)
    _latest: dict[str, None] = field(default_factory=dict)
    _asked: str | None = None
    _until: float = 0.0

    @property
    def is_active(self) -> bool:
        """True while there are suspects."""
        return self._asked is not None or bool(self._suspects)

    def subscribed(self, tickers: Iterable[str], now: float) -> None:
        """Take in that more tickers were subscribed: the next errors may mean them."""
        self._latest, self._until = dict.fromkeys(tickers), now + ANSWER_TIMEOUT_S
        self._refused.difference_update(self._latest)
        if self._asked is not None:  # an error may now mean either
            self._suspects.appendleft(self._asked)
            self._asked = None
        if self._suspects:
            self._suspects.extendleft(reversed(self._latest))

    def unsubscribed(self, tickers: Collection[str]) -> None:
        """Drop these suspects: to ask for one again would subscribe it."""
        dropped = set(tickers)
        self._suspects = deque(ticker for ticker in self._suspects if ticker not in dropped)

    def traded(self, tickers: Collection[str]) -> None:
        """Take in that the server serves these: they are not suspects."""
        self._served.update(tickers)
        if self._asked in self._served:
            self._asked = None
        self.unsubscribed(tickers)

    def add_error(self, text: str, tickers: Iterable[str], now: float) -> str | None:
        """Take in an error; return the ticker that it means, if it is known by now, once."""
        refused = self._find_refused(text, tickers, now)
        if refused is None or refused in self._refused or self._has_traded(refused):
            return None
        self._refused.add(refused)
        return refused

    def _find_refused(self, text: str, tickers: Iterable[str], now: float) -> str | None:
        culprit = find_named_ticker(text, tickers)
        if culprit is not None:
            self.unsubscribed((culprit,))
            return culprit
        if not is_symbol_error(text):
            return None
        asked, self._asked = self._asked, None
        if asked is not None and not self._has_traded(asked):
            return asked
        if not self._suspects:
            latest = [ticker for ticker in tickers if ticker in self._latest]
            suspects = dict.fromkeys([*latest, *tickers])
            self._suspects.extend(ticker for ticker in suspects if not self._has_traded(ticker))
            # More errors of the first requests may follow.
            self._until = now + ANSWER_TIMEOUT_S
        return None

    def next_suspect(self, now: float) -> str | None:
        """Return the ticker to ask for now, if it is time."""
        if now < self._until:
            return None
        self._asked = None
        while self._suspects and self._asked is None:
            ticker = self._suspects.popleft()
            if not self._has_traded(ticker):
                self._asked, self._until = ticker, now + ANSWER_TIMEOUT_S
        return self._asked

    def _has_traded(self, ticker: str) -> bool:
        return ticker in self._served or ticker in self.already_traded
