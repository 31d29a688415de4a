"""Trades as columns, in the order in which they came: what decoding gives, and what is recorded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stocktrace.trade import Trade

Value = TypeVar("Value", bound=Hashable)
#: Condition codes as received, or none.
Codes = tuple[str, ...] | None


class DecodedColumns(dict[Value, int], Generic[Value]):
    """Numbers values as they are met."""

    def __init__(self) -> None:
        super().__init__()
        #: The value of each number.
        self.met: list[Value] = []

    def __missing__(self, value: Value) -> int:
        number = len(self.met)
        self.met.append(value)
        self[value] = number
        return number


@dataclass(frozen=True, slots=True, eq=False)
class TradeColumns:
    """The trades of some frames, one after another.

    ``counts`` int64: how many each frame holds. Of each trade: ``ticker`` int32 (a number into
    ``tickers``), ``ts_event`` int64 (UTC, ms), ``price`` and ``volume`` float64, ``codes`` int32 (a
    number into ``lists``).
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
        """The trades of each frame's message."""
        trades = list(chain.from_iterable(messages))
        count = len(trades)
        tickers, lists = DecodedColumns[str](), DecodedColumns[Codes]()
        return cls(
            np.fromiter(map(len, messages), np.int64, len(messages)),
            np.fromiter(map(tickers.__getitem__, [trade.s for trade in trades]), np.int32, count),
            tickers.met,
            np.fromiter([trade.t for trade in trades], np.int64, count),
            np.fromiter([trade.p for trade in trades], np.float64, count),
            np.fromiter([trade.v for trade in trades], np.float64, count),
            np.fromiter(map(lists.__getitem__, [trade.c for trade in trades]), np.int32, count),
            lists.met,
        )

    def __len__(self) -> int:
        return len(self.ticker)

    def trade(self, row: int) -> Trade:
        """One of them."""
        return Trade(
            self.tickers[self.ticker[row]],
            float(self.price[row]),
            int(self.ts_event[row]),
            float(self.volume[row]),
            self.lists[self.codes[row]],
        )

    def messages(self) -> list[list[Trade]]:
        """The trades of each frame."""
        ends = np.cumsum(self.counts).tolist()
        return [
            [self.trade(row) for row in range(begin, end)]
            for begin, end in zip([0, *ends], ends, strict=False)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TradeColumns) and self.messages() == other.messages()

    __hash__ = None  # type: ignore[assignment]  # arrays can change
