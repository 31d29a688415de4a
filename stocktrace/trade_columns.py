"""Decoded trades as columns, in the order of arrival."""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stocktrace.trade import Trade

Value = TypeVar("Value", bound=Hashable)
#: Condition codes as received, or ``None``.
Codes = tuple[str, ...] | None


class ValueNumbers(dict[Value, int], Generic[Value]):
    """Numbers each distinct value, in the order of first use."""

    def __init__(self) -> None:
        super().__init__()
        #: The values, by their numbers.
        self.distinct: list[Value] = []

    def __missing__(self, value: Value) -> int:
        number = len(self.distinct)
        self.distinct.append(value)
        self[value] = number
        return number


@dataclass(frozen=True, slots=True, eq=False)
class TradeColumns:
    """The trades of some frames, one after another.

    ``counts`` int64 is the number of trades of each frame. Each trade has ``ticker`` int32 (index
    into ``tickers``), ``ts_event`` int64 (UTC, ms), ``price`` and ``volume`` float64 and ``codes``
    int32 (an index into ``lists``).
    """

    counts: npt.NDArray[np.int64]
    ticker: npt.NDArray[np.int32]
    tickers: Sequence[str]
    ts_event: npt.NDArray[np.int64]
    price: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    codes: npt.NDArray[np.int32]
    lists: Sequence[Codes]

    @classmethod
    def of(cls, messages: Sequence[Sequence[Trade]]) -> TradeColumns:
        """Make columns of the trades of each frame."""
        trades = list(chain.from_iterable(messages))
        count = len(trades)
        tickers, lists = ValueNumbers[str](), ValueNumbers[Codes]()
        return cls(
            np.fromiter(map(len, messages), np.int64, len(messages)),
            np.fromiter(map(tickers.__getitem__, [trade.s for trade in trades]), np.int32, count),
            tickers.distinct,
            np.fromiter([trade.t for trade in trades], np.int64, count),
            np.fromiter([trade.p for trade in trades], np.float64, count),
            np.fromiter([trade.v for trade in trades], np.float64, count),
            np.fromiter(map(lists.__getitem__, [trade.c for trade in trades]), np.int32, count),
            lists.distinct,
        )

    def of_tickers(self, names: Container[str]) -> TradeColumns:
        """Return the rows of some tickers."""
        is_named = np.array([name in names for name in self.tickers], np.bool_)[self.ticker]
        frame = np.repeat(np.arange(len(self.counts)), self.counts)
        counts = np.bincount(frame[is_named], minlength=len(self.counts))
        # Only the values of these rows: each one gets a number for the whole window.
        kept, ticker = np.unique(self.ticker[is_named], return_inverse=True)
        used, codes = np.unique(self.codes[is_named], return_inverse=True)
        return TradeColumns(
            counts,
            ticker.astype(np.int32),
            [self.tickers[at] for at in kept.tolist()],
            self.ts_event[is_named],
            self.price[is_named],
            self.volume[is_named],
            codes.astype(np.int32),
            [self.lists[at] for at in used.tolist()],
        )

    def __len__(self) -> int:
        return len(self.ticker)

    def trade(self, row: int) -> Trade:
        """Return one row as a trade."""
        return Trade(
            self.tickers[self.ticker[row]],
            float(self.price[row]),
            int(self.ts_event[row]),
            float(self.volume[row]),
            self.lists[self.codes[row]],
        )

    def messages(self) -> list[list[Trade]]:
        """Return the trades of each frame."""
        ends = np.cumsum(self.counts).tolist()
        return [
            [self.trade(row) for row in range(begin, end)]
            for begin, end in zip([0, *ends], ends, strict=False)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TradeColumns) and self.messages() == other.messages()

    __hash__ = None  # type: ignore[assignment]  # arrays can change
