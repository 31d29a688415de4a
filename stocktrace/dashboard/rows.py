"""Recorded trades of one ticker as columns: made by the tail, counted by everything else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.calendar import Market, market_of
from stocktrace.query.sale_conditions import bar_eligibility
from stocktrace.units import US_PER_MS

#: Any US stock: the meaning of condition codes is the same for all of them.
_A_STOCK = "A"


@dataclass(frozen=True, slots=True)
class TickerRows:
    """Trades of ``ticker`` in the order of arrival; all columns have the same length.

    ``received`` is epoch us, ``lag_ms`` float64 from the trade's own time to its receipt;
    ``makes_price`` and ``makes_volume`` mark the trades that count for bars (docs/reading.md).
    ``written`` is when the last one was written to disk (epoch us), if they were read right then.
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
    def split(cls, table: pa.Table, portions: Iterable[tuple[str, int, int | None]]) -> list[Self]:
        """Split ``table`` in order into portions of ``(ticker, number of rows, written)``.

        The codes of all portions are evaluated together: one call for each of 5,000 tickers would
        cost more than the rest.
        """
        received = table["ts_recv"].to_numpy().view(np.int64)
        lag_ms = (received - table["ts_event"].to_numpy().view(np.int64) * US_PER_MS) / US_PER_MS
        price, volume = table["price"].to_numpy(), table["volume"].to_numpy()
        prices, volumes = bar_eligibility(_A_STOCK, table["conditions"])
        all_rows = np.ones(table.num_rows, np.bool_)
        parts, begin = [], 0
        for ticker, count, written in portions:
            at = slice(begin, begin + count)
            begin += count
            us = market_of(ticker) is Market.US
            parts.append(
                cls(
                    ticker,
                    received[at],
                    lag_ms[at],
                    price[at],
                    volume[at],
                    (prices if us else all_rows)[at],
                    (volumes if us else all_rows)[at],
                    written,
                )
            )
        return parts
