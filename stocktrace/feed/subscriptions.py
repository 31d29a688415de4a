"""What one connection is subscribed to, and what the server refuses of it."""
# MERGED """Which ticker does an error mean that names none? (Finnhub #20.) Pure: told, and asked.
#
# A subscribe is not acknowledged, so after "Invalid symbol" or "Subscribing to too many symbols"
# any ticker that has not traded yet may be the one. They are asked for again, one at a time: the one
# whose request is answered by an error is refused. Asking again for a ticker that is subscribed
# changes nothing. Those asked for last come first: the one too many is mostly one of them.
# """

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from stocktrace.clock import Clock
from stocktrace.feed import protocol
from stocktrace.feed.socket import BatchSocket


class Subscription:
    """The tickers of ``socket``; seconds are monotonic. What sends raises what the socket does."""

    def __init__(
        self, socket: BatchSocket, has_traded: Callable[[str], bool], clock: Clock
    ) -> None:
        self._socket = socket
        self._clock = clock
        self._probe = RefusalProbe(has_traded)
        #: What the server has been asked for.
        self.tickers: tuple[str, ...] = ()

    def begin(self, tickers: tuple[str, ...]) -> None:
        """Ask for the first ones."""
        for ticker in tickers:
            self._socket.send(protocol.subscribe(ticker))
        self.tickers = tickers

    def change(self, wanted: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Ask for what is wanted and not had, and the other way round; gives both."""
        had = set(self.tickers)
        added = [ticker for ticker in wanted if ticker not in had]
        removed = sorted(had.difference(wanted))
        for ticker in removed:
            self._socket.send(protocol.unsubscribe(ticker))
        for ticker in added:
            self._socket.send(protocol.subscribe(ticker))
        self.tickers = wanted
        self._probe.unsubscribed(removed)
        if added:
            self._probe.subscribed(added, self._clock.monotonic())
        return added, removed

    def next_question(self, now: float) -> str | None:
        """The ticker that is to be asked for once more now, for it may be refused."""
        return self._probe.next_question(now)

    def resubscribe(self, ticker: str) -> None:
        """Ask for a suspect."""
        self._socket.send(protocol.subscribe(ticker))

    def refusals_in(self, errors: Iterable[str], now: float) -> Iterator[tuple[str, str]]:
        """The tickers that error texts of the server mean, each with the text."""
        for text in errors:
            ticker = self._probe.add_error(text, self.tickers, now)
            if ticker is not None:
                yield ticker, text


# An error came back within 0.2 s where it was measured; more leaves room for a slow line.
ANSWER_TIMEOUT_S = 1.0
SYMBOL_ERRORS = ("invalid symbol", "too many symbols")


def ticker_named_in(text: str, tickers: Iterable[str]) -> str | None:
    """The ticker that an error text names: ``Invalid symbol FX:EURUSD``."""
    words = text.rpartition("symbol ")[2].strip()
    return next((ticker for ticker in tickers if ticker == words), None)


def is_symbol_error(text: str) -> bool:
    """Whether an error says that a subscription was refused."""
    return any(phrase in text.lower() for phrase in SYMBOL_ERRORS)


@dataclass(slots=True)
class RefusalProbe:
    """The suspects of one connection, asked one by one; seconds are monotonic."""

    has_traded: Callable[[str], bool]
    _suspects: deque[str] = field(default_factory=deque)
    _latest: tuple[str, ...] = ()
    _asked: str | None = None
    _until: float = 0.0

    def subscribed(self, tickers: Iterable[str], now: float) -> None:
        """More tickers were asked for: the next errors may mean them."""
        self._latest, self._until = tuple(tickers), now + ANSWER_TIMEOUT_S
        if self._asked is not None:  # its answer can no longer be told from theirs
            self._suspects.appendleft(self._asked)
            self._asked = None
        if self._suspects:
            self._suspects.extendleft(reversed(self._latest))

    def unsubscribed(self, tickers: Iterable[str]) -> None:
        """These are not wanted any more: to ask for one again would subscribe it."""
        gone = set(tickers)
        self._suspects = deque(ticker for ticker in self._suspects if ticker not in gone)

    def add_error(self, text: str, tickers: Iterable[str], now: float) -> str | None:
        """An error came; gives the ticker that it means, if that is known by now."""
        culprit = ticker_named_in(text, tickers)
        if culprit is not None:
            if culprit in self._suspects:
                self._suspects.remove(culprit)
            return culprit
        if self._asked is not None:
            culprit, self._asked = self._asked, None
            return culprit
        if not self._suspects and is_symbol_error(text):
            latest = [ticker for ticker in tickers if ticker in self._latest]
            self._suspects.extend(dict.fromkeys([*latest, *tickers]))
            self._until = (
                now + ANSWER_TIMEOUT_S
            )  # errors of the first requests may still be on their way
        return None

    def next_question(self, now: float) -> str | None:
        """The ticker to ask for again now, if it is time."""
        if now < self._until:
            return None
        self._asked = None
        while self._suspects:
            ticker = self._suspects.popleft()
            if not self.has_traded(ticker):
                self._asked, self._until = ticker, now + ANSWER_TIMEOUT_S
                return ticker
        return None
