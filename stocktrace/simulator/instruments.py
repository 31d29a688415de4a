"""Trades of stocks, crypto and currencies, in the form that Finnhub sends.

The forms are those of recorded frames (FINNHUB.md, "Messages"). The prices are not real: they are
derived from the ticker's name, so that they cannot be mistaken for real ones.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from random import Random
from typing import Any

# The prefixes of forex feeds; any other prefix is a crypto exchange.
_FOREX = frozenset(
    {"OANDA", "FXCM", "FHFX", "IC MARKETS", "FX", "FOREX", "FOREX.COM", "PEPPERSTONE"}
)

_ROUND_LOT = [["1"]] * 14 + [["1", "8"]] * 4 + [["1", "24"]] + [["1", "7"]]
_ODD_LOT = [["1", "12"]] * 13 + [["1", "8", "12"]] * 4 + [["1", "24", "12"]] * 2 + [["12"]]
_ODD_LOTS = 0.55  # more than half of US trades are odd lots today
_SUB_PENNY = 0.03  # midpoint and wholesale trades such as 164.0601


class Instrument(ABC):
    """One ticker and its last price, in ticks."""

    def __init__(self, ticker: str, low: float, high: float, ticks_per_unit: int) -> None:
        share = zlib.crc32(ticker.encode()) / 2**32
        self.ticker = ticker
        self.ticks_per_unit = ticks_per_unit
        self.ticks = round(low * math.pow(high / low, share) * ticks_per_unit)

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
    """Cents, whole shares, condition codes; odd lots carry code 12."""

    def __init__(self, ticker: str) -> None:
        super().__init__(ticker, 15.0, 450.0, 100)

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
    """Cents, fractional volume, ``c`` is null."""

    def __init__(self, ticker: str) -> None:
        super().__init__(ticker, 2.0, 60_000.0, 100)

    def trade(self, random: Random) -> dict[str, Any]:
        """Make a trade of some hundred units of money, whatever one coin costs."""
        price = self.walk(random) / 100
        volume = max(1e-6, round(300.0 * math.exp(4.0 * random.random() - 2.0) / price, 6))
        return {"c": None, "p": price, "s": self.ticker, "t": 0, "v": volume}


class Forex(Instrument):
    """Five decimals, no codes at all; volume 0 means a price update."""

    def __init__(self, ticker: str) -> None:
        super().__init__(ticker, 0.6, 1.7, 100_000)

    def trade(self, random: Random) -> dict[str, Any]:
        """Make a price update."""
        return {"p": self.walk(random) / 100_000, "s": self.ticker, "t": 0, "v": 0}


def instrument(ticker: str) -> Instrument:
    """Return the instrument for ``BINANCE:…``, ``OANDA:…`` or ``AAPL``, by the form of the name."""
    prefix, colon, _ = ticker.partition(":")
    if not colon:
        return Stock(ticker)
    return Forex(ticker) if prefix.upper() in _FOREX else Crypto(ticker)
