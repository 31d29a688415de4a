"""The synthetic market: frames that look like Finnhub's, the same ones for the same seed.

Trades come in bursts and are sent together a little later; a frame mixes symbols and asset
classes, its trades are not quite in order of time, and equal prints occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Any

import msgspec

from stocktrace.clock import NS_PER_SECOND
from stocktrace.errors import SettingsError
from stocktrace.simulator.arrivals import arrivals, exponential
from stocktrace.simulator.instruments import Instrument, instrument
from stocktrace.store.tape import TapeFrames

#: 2026-11-23 14:30 UTC, an opening of New York, in UTC epoch ns: where a test's market starts.
OPENING_BELL = 1_795_444_200 * NS_PER_SECOND

# FINNHUB.md: trades a second seen on a free key with 50 liquid stocks.
RATE = 57.0
# An opening of twice the rate shows, and still lets a rate be what was asked for.
OPENING = 2.0

# How long a frame collects trades, and how long after that it leaves, in seconds: together they
# put a trade's time 20-150 ms before its frame's.
_COLLECT, _COLLECT_MEAN, _COLLECT_MOST = 0.018, 0.015, 0.060
_TRANSIT, _TRANSIT_MEAN, _TRANSIT_MOST = 0.020, 0.020, 0.085
_SPACING, _SPACING_FULL = 0.018, 0.001  # least time between frames, seconds
_MOST_TRADES = 40  # a frame
_EQUAL_TRADE = 0.04  # share of true equal prints
_SWEEP = 0.30  # share of trades in the symbol of the one before
_LATE = 0.08  # share of trades 1-3 ms older than their neighbours
_ZIPF = 0.8  # how much busier the first tickers are


@dataclass(slots=True)
class _MarketState:
    """The instruments that trade now; a ticker keeps its price while others come and go."""

    random: Random
    tickers: Sequence[str] = ()
    weights: list[float] = field(default_factory=list)
    instruments: dict[str, Instrument] = field(default_factory=dict)
    traded: list[Instrument] = field(default_factory=list)
    last: Instrument | None = None

    def open(self, tickers: Sequence[str]) -> None:
        """Trade these from now on."""
        self.tickers, self.last = tickers, None
        self.weights = list(accumulate((rank + 1) ** -_ZIPF for rank in range(len(tickers))))
        for ticker in tickers:
            if ticker not in self.instruments:
                self.instruments[ticker] = instrument(ticker)
        self.traded = [self.instruments[ticker] for ticker in tickers]

    def rows(self, times: Sequence[int]) -> list[dict[str, Any]]:
        """Trades at these times (UNIX ms)."""
        random, rows = self.random, list[dict[str, Any]]()
        if not self.traded:
            return rows
        for time in times:
            draw = random.random()
            if rows and draw < _EQUAL_TRADE:
                rows.append(rows[-1])
                continue
            if self.last is None or draw > _EQUAL_TRADE + _SWEEP:
                (self.last,) = random.choices(self.traded, cum_weights=self.weights)
            row = self.last.trade(random)
            row["t"] = time - 1 - int(3 * random.random()) if random.random() < _LATE else time
            rows.append(row)
        return rows


def _windows(random: Random, rate: float, opening: float) -> Iterator[tuple[float, list[float]]]:
    """When a frame leaves, and when its trades happened: seconds from the start."""
    due = 0.0
    trades: list[float] = []
    closes = 0.0
    for now in arrivals(random, rate, opening):
        if trades and (now > closes or len(trades) == _MOST_TRADES):
            transit = _TRANSIT + min(_TRANSIT_MOST, exponential(random, _TRANSIT_MEAN))
            full = len(trades) == _MOST_TRADES
            due = max(due + (_SPACING_FULL if full else _SPACING), min(now, closes) + transit)
            yield due, trades
            trades = []
        if not trades:
            closes = now + min(_COLLECT_MOST, _COLLECT + exponential(random, _COLLECT_MEAN))
        trades.append(now)


def _market(
    seed: int,
    rate: float,
    opening: float,
    start: int,
    tickers: Callable[[], Sequence[str]],
    trades: int | None,
) -> Iterator[tuple[int, bytes | None]]:
    """Frames with their stamps (UTC epoch ns), until there were so many trades.

    While there are no tickers, time passes in frames that are ``None``.
    """
    random = Random(seed)
    floor = _MarketState(random)
    encode = msgspec.json.Encoder().encode
    left = math.inf if trades is None else trades
    for due, seconds in _windows(random, rate, opening):
        if left <= 0:
            return
        now = tickers()
        if now != floor.tickers:
            floor.open(now)
        times = [(start + round(second * NS_PER_SECOND)) // 1_000_000 for second in seconds]
        rows = floor.rows(times if left >= len(times) else times[: int(left)])
        left -= len(rows)
        frame = encode({"data": rows, "type": "trade"}) if rows else None
        yield start + round(due * NS_PER_SECOND), frame


def synthetic_frames(
    tickers: Sequence[str],
    trades: int,
    seed: int = 1,
    *,
    rate: float = RATE,
    opening: float = OPENING,
    start: int = OPENING_BELL,
) -> Iterator[tuple[int, bytes]]:
    """Frames with ``trades`` trades of ``tickers``.

    ``rate`` is trades a second over all tickers, ``start`` UTC epoch ns. The same arguments give
    the same bytes. Yields ``(stamp, frame)``, the stamp in UTC epoch ns.
    """
    if not tickers:
        return
    for stamp, frame in _market(seed, rate, opening, start, lambda: tickers, trades):
        if frame is not None:
            yield stamp, frame


@dataclass(frozen=True, slots=True)
class SyntheticMarket:
    """An endless market as a source: it trades whatever clients subscribe to, live.

    ``rate`` is trades a second over all tickers, at the start ``opening`` times as many.
    ``tickers``, if given, trade whatever is subscribed to. ``flat_out`` plays as fast as it is
    taken, with times that then run ahead; ``trades`` ends the market after that many.
    """

    seed: int = 1
    rate: float = RATE
    opening: float = OPENING
    tickers: tuple[str, ...] = ()
    trades: int | None = None
    flat_out: bool = False

    @property
    def speed(self) -> float:
        """The pace of the clock, or none."""
        return 0.0 if self.flat_out else 1.0

    @property
    def loop(self) -> bool:
        """A market that ended stays closed."""
        return False

    def check(self) -> None:
        """See that the market can trade.

        Raises:
            SettingsError: a rate or opening that is not above 0.
        """
        if self.rate <= 0 or self.opening <= 0:
            raise SettingsError("The rate and the opening of a market must be above 0.")

    def entries(self, start: int, tickers: Callable[[], Sequence[str]]) -> Iterator[TapeFrames]:
        """The market from ``start`` (UTC epoch ns) on, for the tickers of the moment."""
        yield TapeFrames(start, ())  # the pace counts from here
        now = (lambda: self.tickers) if self.tickers else tickers
        for stamp, frame in _market(self.seed, self.rate, self.opening, start, now, self.trades):
            yield TapeFrames(stamp, (frame,) if frame else ())
