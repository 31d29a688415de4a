"""The table of the page: one line per ticker, and which lines changed since a version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from stocktrace.dashboard.rows import TickerRows
from stocktrace.units import US_PER_SECOND

#: Points of a sparkline: the last minute of a live session, or the whole of an ended one.
POINTS = 60

#: Number of the ticker, last price, change (%), trades a second, trades recorded, trades queued,
#: gaps, rows in quarantine, and the text of a refusal.
TickerLine = tuple[int, float | None, float | None, float, int, int, int, int, str]


class TickerTable:
    """The lines of a session from ``begin`` to ``end`` (epoch s; ``None`` while it runs)."""

    def __init__(self, begin: int, end: int | None) -> None:
        self._begin, self._end = begin, end
        self._second = 0  # epoch s of the last point of a live session
        self.tickers: list[str] = []
        self._numbers: dict[str, int] = {}
        self._trades: list[int] = []
        self._first: list[float | None] = []
        self._last: list[float | None] = []
        self._last_received: list[int] = []
        self._sparks: npt.NDArray[np.float64] = np.full((0, POINTS), np.nan)
        self._lines: list[TickerLine] = []
        self._changed: list[int] = []

    def add_tickers(self, tickers: Iterable[str]) -> None:
        """Add a line for each new ticker."""
        new = [ticker for ticker in tickers if ticker not in self._numbers]
        for ticker in new:
            self._numbers[ticker] = len(self.tickers)
            self.tickers.append(ticker)
            self._trades.append(0)
            self._first.append(None)
            self._last.append(None)
            self._last_received.append(0)
            self._changed.append(0)
            self._lines.append((-1, None, None, 0.0, 0, 0, 0, 0, ""))
        if new:
            more = np.full((len(new), POINTS), np.nan)
            self._sparks = np.concatenate((self._sparks, more))

    def add(self, rows: TickerRows) -> None:
        """Count ``rows``."""
        number = self._numbers[rows.ticker]
        self._trades[number] += len(rows)
        # A window that was rebuilt from the tape comes late: its prices are not the last ones.
        if not rows.makes_price.any() or rows.received[-1] < self._last_received[number]:
            return
        self._last_received[number] = int(rows.received[-1])
        price, at = rows.price[rows.makes_price], rows.received[rows.makes_price] // US_PER_SECOND
        if self._first[number] is None:
            self._first[number] = float(price[0])
        self._last[number] = float(price[-1])
        points = self._points(at)
        ends = np.flatnonzero(np.diff(points, append=POINTS + 1))  # the last trade of each point
        for point, value in zip(points[ends].tolist(), price[ends].tolist(), strict=True):
            if point >= 0:
                self._sparks[number, point:] = value

    def _points(self, seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self._end is None:
            return np.minimum(seconds - self._second + POINTS - 1, POINTS - 1)
        span = max(1, self._end - self._begin)
        return np.clip((seconds - self._begin) * POINTS // span, 0, POINTS - 1)

    def advance(self, second: int) -> None:
        """Move the sparklines of a live session on to ``second`` (epoch s)."""
        steps = min(max(0, second - self._second), POINTS)
        if self._end is None and steps:
            self._sparks[:, : POINTS - steps] = self._sparks[:, steps:]
            self._sparks[:, POINTS - steps :] = self._sparks[:, -1:]
        self._second = max(second, self._second)

    def update(
        self,
        version: int,
        rates: Mapping[str, float],
        queued: Mapping[str, int],
        gaps: Mapping[str, int],
        quarantined: Mapping[str, int],
        refused: Mapping[str, str],
    ) -> None:
        """Update the lines; those that change belong to ``version``."""
        for number, ticker in enumerate(self.tickers):
            first, last = self._first[number], self._last[number]
            line = (
                number,
                last,
                round((last / first - 1) * 100, 3) if first and last is not None else None,
                round(rates.get(ticker, 0.0), 1),
                self._trades[number],
                queued.get(ticker, 0),
                gaps.get(ticker, 0),
                quarantined.get(ticker, 0),
                refused.get(ticker, ""),
            )
            if line != self._lines[number]:
                self._lines[number] = line
                self._changed[number] = version

    def lines(self, since: int) -> list[TickerLine]:
        """Return the lines that changed after version ``since``."""
        return [
            line
            for line, changed in zip(self._lines, self._changed, strict=True)
            if changed > since
        ]

    def sparks(self) -> list[list[float | None]]:
        """Return the points of all tickers: ``None`` before the first trade, empty without one."""
        return [
            [None if value != value else value for value in points]  # noqa: PLR0124 - nan
            if last is not None
            else []
            for points, last in zip(self._sparks.tolist(), self._last, strict=True)
        ]

    @property
    def spark_span(self) -> str:
        """The time that the points span: the last ``minute``, or the whole ``session``."""
        return "minute" if self._end is None else "session"

    def trades(self) -> dict[str, int]:
        """Return the number of rows counted, by ticker."""
        return dict(zip(self.tickers, self._trades, strict=True))
