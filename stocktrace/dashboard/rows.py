"""Recorded trades of one ticker as columns: what the tail gives and everything else counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.calendar import Market, market_of
from stocktrace.query.sale_conditions import bar_eligibility

#: A stock whose codes are known; what they say does not depend on which one it is.
_A_STOCK = "A"


@dataclass(frozen=True, slots=True)
class TickerRows:
    """Trades of ``ticker`` in the order of arrival; all columns are of equal length.

    ``received`` is epoch us, ``lag_ms`` float64 from the trade's own time to its receipt;
    ``makes_price`` and ``makes_volume`` say which trades count for bars (docs/reading.md).
    ``written`` is when the last of them came to disk (epoch us), if they were read right then.
    """

    ticker: str
    received: npt.NDArray[np.int64]
    lag_ms: npt.NDArray[np.float64]
    price: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    makes_price: npt.NDArray[np.bool_]
    makes_volume: npt.NDArray[np.bool_]
    written: int | None = None

    def __len__(self) -> int:
        return len(self.received)

    @classmethod
    def part(cls, table: pa.Table, portions: Iterable[tuple[str, int, int | None]]) -> list[Self]:
        """``table`` cut in order into ``(ticker, rows, written)``.

        The codes of all are looked at together: a call for each of 5,000 tickers would cost more
        than all else here.
        """
        received = table["ts_recv"].to_numpy().view(np.int64)
        lag_ms = (received - table["ts_event"].to_numpy().view(np.int64) * 1000) / 1000.0
        price, volume = table["price"].to_numpy(), table["volume"].to_numpy()
        prices, volumes = bar_eligibility(_A_STOCK, table["conditions"])
        every = np.ones(table.num_rows, np.bool_)
        found, begin = [], 0
        for ticker, count, written in portions:
            at = slice(begin, begin + count)
            begin += count
            us = market_of(ticker) is Market.US
            found.append(
                cls(
                    ticker,
                    received[at],
                    lag_ms[at],
                    price[at],
                    volume[at],
                    (prices if us else every)[at],
                    (volumes if us else every)[at],
                    written,
                )
            )
        return found
