"""The synthetic market: frames that look like Finnhub's, the same ones for the same seed.

Trades come in bursts, because trades cause trades, and are sent together a little later. A frame
mixes symbols and asset classes, its trades are not quite in order of time, and equal trades occur.
Only ``Random.random`` is used, whose sequence for a seed is the same in every version of Python.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any, ClassVar

import msgspec

from stocktrace.errors import SettingsError
from stocktrace.store.tape import TapeFrames
from stocktrace.units import NS_PER_MS, NS_PER_SECOND

#: 2026-11-23 14:30 UTC, an opening of New York, in UTC epoch ns: where a test's market starts.
OPENING_BELL = 1_795_444_200 * NS_PER_SECOND

# FINNHUB.md: trades a second seen on a free key with 50 liquid stocks.
RATE = 57.0
# An opening of twice the rate is visible, and the long-run rate is still the requested one.
OPENING = 2.0
# The opening peak decays with this time constant, in seconds: a demo should show it.
_OPENING_SECONDS = 60.0

# The share of trades that other trades caused; the literature finds 0.5-0.8 for liquid stocks.
_BRANCHING = 0.7
# How fast excitement decays, 1/s: a burst lasts some tenths of a second.
_DECAY = 8.0

# How long a frame collects trades, and how long after that it is sent, in seconds: together they
# put a trade's time 20-150 ms before its frame's.
_COLLECT, _COLLECT_MEAN, _COLLECT_MAX = 0.018, 0.015, 0.060
_TRANSIT, _TRANSIT_MEAN, _TRANSIT_MAX = 0.020, 0.020, 0.085
_SPACING, _SPACING_FULL = 0.018, 0.001  # least time between frames, seconds
_MAX_TRADES = 40  # a frame
_EQUAL_TRADE = 0.04  # share of true equal trades
_SWEEP = 0.30  # share of trades in the symbol of the one before
_LATE = 0.08  # share of trades 1-3 ms older than their neighbours
_ZIPF = 0.8  # how much busier the first tickers are

# The prefixes of forex feeds; any other prefix is a crypto exchange.
_FOREX = frozenset(
    {"OANDA", "FXCM", "FHFX", "IC MARKETS", "FX", "FOREX", "FOREX.COM", "PEPPERSTONE"}
)

_ROUND_LOT = [["1"]] * 14 + [["1", "8"]] * 4 + [["1", "24"]] + [["1", "7"]]
_ODD_LOT = [["1", "12"]] * 13 + [["1", "8", "12"]] * 4 + [["1", "24", "12"]] * 2 + [["12"]]
_ODD_LOTS = 0.55  # more than half of US trades are odd lots today
_SUB_PENNY = 0.03  # midpoint and wholesale trades such as 164.0601


class Instrument(ABC):
    """One ticker and its last price, in ticks.

    The forms of trades are those of recorded frames (FINNHUB.md, "Messages"). Prices are derived
    from the ticker's name, between ``low`` and ``high``, so that they cannot be mistaken for real.
    """

    low: ClassVar[float]
    high: ClassVar[float]
    ticks_per_unit: ClassVar[int] = 100

    def __init__(self, ticker: str) -> None:
        share = zlib.crc32(ticker.encode()) / 2**32
        self.ticker = ticker
        price = self.low * math.pow(self.high / self.low, share)
        self.ticks = round(price * self.ticks_per_unit)

    def walk(self, random: Random) -> int:
        """Return the next price, in ticks: most trades do not move it, some by more than one."""
        draw = random.random()
        if draw < 0.45:
            step = 1 if draw < 0.30 else 1 + int(3 * random.random())
            self.ticks = max(1, self.ticks + (step if random.random() < 0.5 else -step))
        return self.ticks

    @abstractmethod
    def trade(self, random: Random) -> dict[str, Any]:
        """Make one trade in Finnhub's form; its time ``t`` is 0."""


class Stock(Instrument):
    """Cents, whole shares in round and odd lots, condition codes; odd lots carry code 12."""

    low, high = 15.0, 450.0

    def trade(self, random: Random) -> dict[str, Any]:
        """Make a round or odd lot."""
        ticks = self.walk(random)
        price = ticks / 100
        if random.random() < _SUB_PENNY:
            price = (ticks * 100 + 1 + int(99 * random.random())) / 10_000
        if random.random() < _ODD_LOTS:
            volume, codes = 1 + int(99 * random.random() ** 2), _ODD_LOT
        else:
            volume, codes = 100 * (1 + int(random.random() ** 6 * 20)), _ROUND_LOT
        conditions = codes[int(len(codes) * random.random())]
        return {"c": conditions, "p": price, "s": self.ticker, "t": 0, "v": volume}


class Crypto(Instrument):
    """Cents, fractional volume worth some hundred units of money, ``c`` is null."""

    low, high = 2.0, 60_000.0

    def trade(self, random: Random) -> dict[str, Any]:
        """Make a trade, whatever one coin costs."""
        price = self.walk(random) / 100
        volume = max(1e-6, round(300.0 * math.exp(4.0 * random.random() - 2.0) / price, 6))
        return {"c": None, "p": price, "s": self.ticker, "t": 0, "v": volume}


class Forex(Instrument):
    """Five decimals, no codes at all, volume 0."""

    low, high = 0.6, 1.7
    ticks_per_unit = 100_000

    def trade(self, random: Random) -> dict[str, Any]:
        """Make a price update."""
        return {"p": self.walk(random) / 100_000, "s": self.ticker, "t": 0, "v": 0}


def instrument(ticker: str) -> Instrument:
    """Return the instrument for ``BINANCE:…``, ``OANDA:…`` or ``AAPL``, by the form of the name."""
    prefix, colon, _ = ticker.partition(":")
    if not colon:
        return Stock(ticker)
    return Forex(ticker) if prefix.upper() in _FOREX else Crypto(ticker)


def exponential(random: Random, mean: float) -> float:
    """Draw an exponentially distributed value."""
    return -mean * math.log(1.0 - random.random())


def _arrivals(random: Random, rate: float, opening: float) -> Iterator[float]:
    """Yield times of trades without end, in seconds from the start.

    The rate is ``rate`` a second in the long run, and ``opening`` times that at the start. It is a
    self-exciting (Hawkes) process: each trade raises the intensity, which then decays
    exponentially. Gaps are drawn exactly, with two uniforms each (Dassios and Zhao, "Exact
    simulation of Hawkes process with exponentially decaying intensity", Electron. Commun. Probab.
    18, 2013).
    """
    now, excited = 0.0, 0.0
    jump = _BRANCHING * _DECAY
    while True:
        peak = 1.0 + (opening - 1.0) * math.exp(-now / _OPENING_SECONDS)
        gap = exponential(random, 1.0 / (rate * peak * (1.0 - _BRANCHING)))
        if excited > 0.0:
            decayed = 1.0 + _DECAY * math.log(1.0 - random.random()) / excited
            if decayed > 0.0:
                gap = min(gap, -math.log(decayed) / _DECAY)
        excited = excited * math.exp(-_DECAY * gap) + jump
        now += gap
        yield now


class _TradingFloor:
    """The instruments that trade now; a ticker keeps its price while others come and go."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._instruments: dict[str, Instrument] = {}
        self.open(())

    def open(self, tickers: Sequence[str]) -> None:
        """Trade these tickers from now on."""
        self.tickers = tickers
        self._last: Instrument | None = None
        self._weights = list(accumulate((rank + 1) ** -_ZIPF for rank in range(len(tickers))))
        self._instruments |= {
            ticker: instrument(ticker) for ticker in tickers if ticker not in self._instruments
        }
        self._traded = [self._instruments[ticker] for ticker in tickers]

    def trades(self, times: Sequence[int]) -> list[dict[str, Any]]:
        """Make one trade at each of these times (UNIX ms)."""
        random, trades = self._random, list[dict[str, Any]]()
        if not self._traded:
            return trades
        for time in times:
            draw = random.random()
            if trades and draw < _EQUAL_TRADE:
                trades.append(trades[-1])
                continue
            if self._last is None or draw > _EQUAL_TRADE + _SWEEP:
                (self._last,) = random.choices(self._traded, cum_weights=self._weights)
            trade = self._last.trade(random)
            trade["t"] = time - 1 - int(3 * random.random()) if random.random() < _LATE else time
            trades.append(trade)
        return trades


def _frame_times(
    random: Random, rate: float, opening: float
) -> Iterator[tuple[float, list[float]]]:
    """Yield when a frame is sent, and when its trades happened: seconds from the start."""
    due = 0.0
    trades: list[float] = []
    closes = 0.0
    for now in _arrivals(random, rate, opening):
        if trades and (now > closes or len(trades) == _MAX_TRADES):
            transit = _TRANSIT + min(_TRANSIT_MAX, exponential(random, _TRANSIT_MEAN))
            full = len(trades) == _MAX_TRADES
            due = max(due + (_SPACING_FULL if full else _SPACING), min(now, closes) + transit)
            yield due, trades
            trades = []
        if not trades:
            closes = now + min(_COLLECT_MAX, _COLLECT + exponential(random, _COLLECT_MEAN))
        trades.append(now)


@dataclass(frozen=True, slots=True)
class SyntheticMarket:
    """An endless market as a source: it trades whatever clients subscribe to, live.

    ``rate`` is trades a second over all tickers, ``opening`` times as many at the start.
    ``tickers``, if given, trade whatever clients subscribe to. ``flat_out`` plays as fast as
    clients read, with times that then run ahead. ``trades`` ends the market after that many.
    """

    seed: int = 1
    rate: float = RATE
    opening: float = OPENING
    tickers: tuple[str, ...] = ()
    trades: int | None = None
    flat_out: bool = False
    loop: ClassVar[bool] = False  # a market that ended stays closed

    @property
    def speed(self) -> float:
        """Real time, or no pace."""
        return 0.0 if self.flat_out else 1.0

    def check(self) -> None:
        """Check that the market can trade.

        Raises:
            SettingsError: a rate or opening that is not above 0.
        """
        if self.rate <= 0 or self.opening <= 0:
            raise SettingsError("The rate and the opening of a market must be above 0.")

    def entries(self, start: int, tickers: Callable[[], Sequence[str]]) -> Iterator[TapeFrames]:
        """Yield the market from ``start`` (UTC epoch ns) on, for the tickers of the moment."""
        yield TapeFrames(start, ())  # the pace counts from here
        random = Random(self.seed)
        floor = _TradingFloor(random)
        encode = msgspec.json.Encoder().encode
        left = math.inf if self.trades is None else self.trades
        for due, seconds in _frame_times(random, self.rate, self.opening):
            if left <= 0:
                return
            current = self.tickers or tickers()
            if current != floor.tickers:
                floor.open(current)
            times = [(start + round(second * NS_PER_SECOND)) // NS_PER_MS for second in seconds]
            rows = floor.trades(times if left >= len(times) else times[: int(left)])
            left -= len(rows)
            frames = (encode({"data": rows, "type": "trade"}),) if rows else ()
            yield TapeFrames(start + round(due * NS_PER_SECOND), frames)


def synthetic_frames(
    tickers: Sequence[str],
    trades: int,
    seed: int = 1,
    *,
    rate: float = RATE,
    opening: float = OPENING,
    start: int = OPENING_BELL,
) -> Iterator[tuple[int, bytes]]:
    """Yield frames with ``trades`` trades of ``tickers``, as ``(stamp, frame)``.

    ``rate`` is trades a second over all tickers; ``start`` and the stamps are UTC epoch ns. The
    same arguments make the same bytes.
    """
    if not tickers:
        return
    market = SyntheticMarket(seed, rate, opening, trades=trades)
    for entry in market.entries(start, lambda: tickers):
        for frame in entry.frames:
            yield entry.stamp, frame
