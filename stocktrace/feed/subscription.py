"""What one connection is subscribed to, and what the server refuses of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from stocktrace.deadline import Clock
from stocktrace.feed import wire
from stocktrace.feed.probe import Probe
from stocktrace.feed.socket import BatchSocket


class Subscription:
    """The tickers of ``socket``; seconds are monotonic. What sends raises what the socket does."""

    def __init__(
        self, socket: BatchSocket, has_traded: Callable[[str], bool], clock: Clock
    ) -> None:
        self._socket = socket
        self._clock = clock
        self._probe = Probe(has_traded)
        #: What the server has been asked for.
        self.tickers: tuple[str, ...] = ()

    def begin(self, tickers: tuple[str, ...]) -> None:
        """Ask for the first ones."""
        for ticker in tickers:
            self._socket.send(wire.subscribe(ticker))
        self.tickers = tickers

    def change(self, wanted: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Ask for what is wanted and not had, and the other way round; gives both."""
        had = set(self.tickers)
        added = [ticker for ticker in wanted if ticker not in had]
        removed = sorted(had.difference(wanted))
        for ticker in removed:
            self._socket.send(wire.unsubscribe(ticker))
        for ticker in added:
            self._socket.send(wire.subscribe(ticker))
        self.tickers = wanted
        self._probe.withdrawn(removed)
        if added:
            self._probe.requested(added, self._clock.monotonic())
        return added, removed

    def suspect(self, now: float) -> str | None:
        """The ticker that is to be asked for once more now, for it may be refused."""
        return self._probe.next(now)

    def ask_again(self, ticker: str) -> None:
        """Ask for a suspect."""
        self._socket.send(wire.subscribe(ticker))

    def refused(self, errors: Iterable[str], now: float) -> Iterator[tuple[str, str]]:
        """The tickers that error texts of the server mean, each with the text."""
        for text in errors:
            ticker = self._probe.error(text, self.tickers, now)
            if ticker is not None:
                yield ticker, text
