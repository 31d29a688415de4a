"""What was read from the socket or a tape: frames, and the trades in them as columns.

The trades themselves are let go at once, on the core that has them in its cache: one that had to
fetch each of their objects later would take 2,000 ns a trade, and takes 200 for columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import InitVar, dataclass, field
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stocktrace.store.tape import Frames
from stocktrace.trade import Trade

Value = TypeVar("Value", bound=Hashable)
# numpy sorts 16 bits by their digits, ten times faster than it compares 32.
_FEW = 1 << 15


class Numbers(dict[Value, int], Generic[Value]):
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


@dataclass(frozen=True, slots=True)
class Numbering:
    """Of a window's tickers and lists of condition codes; one thread adds to it."""

    tickers: Numbers[str] = field(default_factory=Numbers)
    codes: Numbers[tuple[str, ...] | None] = field(default_factory=Numbers)


@dataclass(slots=True, eq=False)
class Read:
    """Frames of one or more arrivals; the rows are sorted by ticker, within it as they came.

    ``messages[i]`` are the trades of the ``i``-th frame. All columns are of equal length:
    ``ts_event`` int64 (UTC, ms), ``price`` and ``volume`` float64, ``codes`` int32 (numbers of
    ``numbering``), ``arrival`` int32 (which of ``arrivals`` the row came with), ``place`` int64
    (where the row's trade stands among all of them).
    """

    arrivals: Sequence[Frames]
    messages: InitVar[Sequence[Sequence[Trade]]]
    numbering: Numbering = field(default_factory=Numbering)
    #: The rows of each ticker.
    parts: list[tuple[str, range]] = field(init=False)
    ts_event: npt.NDArray[np.int64] = field(init=False)
    price: npt.NDArray[np.float64] = field(init=False)
    volume: npt.NDArray[np.float64] = field(init=False)
    codes: npt.NDArray[np.int32] = field(init=False)
    arrival: npt.NDArray[np.int32] = field(init=False)
    place: npt.NDArray[np.int64] = field(init=False)
    _lengths: list[int] = field(init=False)

    def __post_init__(self, messages: Sequence[Sequence[Trade]]) -> None:
        trades = list(chain.from_iterable(messages))
        count = len(trades)
        self._lengths = list(map(len, messages))
        tickers, codes = self.numbering.tickers, self.numbering.codes
        numbers = map(tickers.__getitem__, [trade.s for trade in trades])
        ticker = np.fromiter(numbers, np.int32, count)
        place = np.argsort(
            ticker.astype(np.int16) if len(tickers) <= _FEW else ticker, kind="stable"
        )
        self.ts_event = np.fromiter([trade.t for trade in trades], np.int64, count)[place]
        self.price = np.fromiter([trade.p for trade in trades], np.float64, count)[place]
        self.volume = np.fromiter([trade.v for trade in trades], np.float64, count)[place]
        numbers = map(codes.__getitem__, [trade.c for trade in trades])
        self.codes = np.fromiter(numbers, np.int32, count)[place]
        self.arrival = self._arrivals()[place]
        self.place = place
        ticker = ticker[place]
        begins = [0, *(np.flatnonzero(ticker[1:] != ticker[:-1]) + 1).tolist()] if count else []
        names = map(tickers.met.__getitem__, ticker[begins].tolist())
        rows = map(range, begins, [*begins[1:], count])
        self.parts = list(zip(names, rows, strict=True))

    def _arrivals(self) -> npt.NDArray[np.int32]:
        """Of each trade, the number of its arrival."""
        if len(self.arrivals) == 1:
            return np.zeros(sum(self._lengths), np.int32)
        ends = np.cumsum(self._lengths)[np.cumsum([len(one.frames) for one in self.arrivals]) - 1]
        return np.repeat(np.arange(len(ends), dtype=np.int32), np.diff(ends, prepend=0))

    def __len__(self) -> int:
        return len(self.place)

    def stamp_of(self, row: int) -> int:
        """When a row was received, epoch ns."""
        return self.arrivals[int(self.arrival[row])].stamp

    def frame_of(self, row: int) -> bytes:
        """The raw frame that a row came in."""
        at = int(np.searchsorted(np.cumsum(self._lengths), self.place[row], side="right"))
        return [frame for one in self.arrivals for frame in one.frames][at]

    def trade(self, row: int) -> Trade:
        """The trade of a row."""
        ticker = next(ticker for ticker, rows in self.parts if row in rows)
        codes = self.numbering.codes.met[self.codes[row]]
        price, volume = float(self.price[row]), float(self.volume[row])
        return Trade(ticker, price, int(self.ts_event[row]), volume, codes)
