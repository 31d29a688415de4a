"""Segments: the validated trades of one ticker and window, as CSV.

    .csv.open ──seal: fsync, rename──▶ .csv ──convert──▶ .parquet

Text of a row: times as ``2026-11-23 14:30:00.123Z`` (ms) and ``…00.123456Z`` (µs), numbers as the
shortest text that gives the same float64, no quotes: no text in a row can hold a comma, a quote or
a line feed (``is_ticker``, ``_CODE``), so a row is a line.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.lags import Lags
from stocktrace.store import files, schema
from stocktrace.store.layout import Layout, Part
from stocktrace.store.quarantine import Quarantine, Refused
from stocktrace.trade import COLUMNS, Trade, is_ticker

HEADER = (",".join(COLUMNS) + "\n").encode()
# A condition code: anything printable that neither the CSV nor the list of codes is parted by.
_CODE = re.compile(r"[!#-+\--~]{1,16}")


@dataclass(frozen=True, slots=True)
class Read:
    """One read of the socket: ``messages[i]`` are the trades of ``frames[i]``; epoch ns."""

    stamp: int
    frames: Sequence[bytes]
    messages: Sequence[Sequence[Trade]]

    def frame_of(self, trade: Trade) -> bytes:
        """The raw frame that ``trade`` (the object itself: equal prints are legal) came in."""
        for frame, message in zip(self.frames, self.messages, strict=True):
            if any(each is trade for each in message):
                return frame
        raise LookupError("a trade of another read")


#: Some trades of one ticker from one read, in their order.
Chunk = tuple[Read, list[Trade]]
#: Tickers, each once, with their chunks in the order of arrival.
Batch = Sequence[tuple[str, Sequence[Chunk]]]


@dataclass(slots=True)
class Tally:
    """What became of one ticker's trades in one window."""

    recorded: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class SegmentWriter:
    """The segments and the quarantine of one window, written batch by batch, then sealed.

    Tickers in ``done`` are sealed or published already: their rows are checked and counted again,
    but not written (a rebuild after a crash in the middle of sealing).
    """

    layout: Layout
    part: Part
    done: Container[str] = frozenset()
    tallies: dict[str, Tally] = field(default_factory=dict)
    lags: Lags = field(default_factory=Lags)
    latest_lag_ms: float = 0.0
    _started: dict[str, Path] = field(default_factory=dict)
    _quarantine: Quarantine = field(init=False)

    def __post_init__(self) -> None:
        self._quarantine = Quarantine(self.layout.quarantine(self.part))

    def refuse(self, refused: Iterable[Refused]) -> None:
        """Keep what could not even be decoded."""
        self._quarantine.put(refused)

    def write(self, batch: Batch) -> None:
        """Validate and append a batch."""
        counts = [sum(len(trades) for _, trades in chunks) for _, chunks in batch]
        columns = _Columns.of(batch, counts)
        keep = np.ones(len(columns.price), np.bool_)
        refused = schema.failures(columns.frame())
        if refused:
            keep[list(refused)] = False
            self._put_aside(batch, refused)
        # Of what was refused, the time may be the reason.
        self.lags.add((columns.ts_recv - columns.ts_event)[keep].view(np.int64) / 1000.0)
        kept = np.concatenate(([0], np.cumsum(keep)))[np.cumsum(counts)]
        self._append(columns.symbols, kept, columns.lines(keep))
        for (ticker, _), count, recorded in zip(
            batch, counts, np.diff(kept, prepend=0).tolist(), strict=True
        ):
            tally = self.tallies.setdefault(ticker, Tally())
            tally.recorded += recorded
            tally.quarantined += count - recorded

    def _put_aside(self, batch: Batch, refused: dict[int, str]) -> None:
        rows = [(read, trade) for _, chunks in batch for read, trades in chunks for trade in trades]
        self._quarantine.put(
            Refused(rows[at][0].stamp, rows[at][0].frame_of(rows[at][1]), _row(rows[at][1]), why)
            for at, why in refused.items()
        )

    def _append(
        self, tickers: Sequence[str], ends: npt.NDArray[np.int64], lines: pa.StringArray
    ) -> None:
        """Append to each ticker's segment its ``lines``: those up to ``ends[i]``."""
        _, offsets, text = lines.buffers()
        if not len(lines):
            return
        stops = np.frombuffer(offsets, np.int32)[ends]
        view, begin = memoryview(text), 0
        for ticker, stop in zip(tickers, stops.tolist(), strict=True):
            if stop > begin and ticker not in self.done:
                files.append(self._started.get(ticker) or self._start(ticker), view[begin:stop])
            begin = stop

    def _start(self, ticker: str) -> Path:
        path = self.layout.open_csv(ticker, self.part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an attempt that died
        files.append(path, HEADER)
        self._started[ticker] = path
        return path

    def seal(self, unless: Iterable[str] = ()) -> None:
        """All rows are written: give the segments their names, but those of ``unless``."""
        left = set(unless)
        for ticker, path in self._started.items():
            if ticker not in left:
                files.sync(path)
                path.rename(self.layout.csv(ticker, self.part))
        self._quarantine.seal()


class _Conditions(dict[tuple[str, ...] | None, int]):
    """Numbers the texts of a batch's condition lists; -1 for a list that cannot be stored."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}

    def __missing__(self, codes: tuple[str, ...] | None) -> int:
        number = -1
        if all(_CODE.fullmatch(code) for code in codes or ()):
            number = self.texts.setdefault(" ".join(codes or ()), len(self.texts))
        self[codes] = number
        return number


@dataclass(slots=True)
class _Columns:
    """A batch as columns of equal length, sorted by ticker and within it by arrival.

    ``symbol`` and ``conditions`` are numbers (int32) into their texts, -1 for what has none.
    """

    symbol: npt.NDArray[np.int32]
    symbols: list[str]
    ts_event: npt.NDArray[np.datetime64]
    ts_recv: npt.NDArray[np.datetime64]
    price: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    conditions: npt.NDArray[np.int32]
    texts: list[str]

    @classmethod
    def of(cls, batch: Batch, counts: Sequence[int]) -> _Columns:
        trades = [trade for _, chunks in batch for _, some in chunks for trade in some]
        reads = [(read.stamp // 1000, len(some)) for _, chunks in batch for read, some in chunks]
        stamps, lengths = np.array(reads, np.int64).T
        numbers = _Conditions()
        conditions = np.array([numbers[trade.c] for trade in trades], np.int32)
        symbols = [ticker for ticker, _ in batch]
        storable = [at if is_ticker(ticker) else -1 for at, ticker in enumerate(symbols)]
        return cls(
            np.repeat(np.array(storable, np.int32), counts),
            symbols,
            np.array([trade.t for trade in trades], np.int64).view("datetime64[ms]"),
            np.repeat(stamps, lengths).view("datetime64[us]"),
            np.array([trade.p for trade in trades], np.float64),
            np.array([trade.v for trade in trades], np.float64),
            conditions,
            list(numbers.texts),
        )

    def frame(self) -> pd.DataFrame:
        """As the schema wants it; no column is copied."""
        return pd.DataFrame(
            {
                "symbol": _categorical(self.symbol, self.symbols),
                "ts_event": self.ts_event,
                "ts_recv": self.ts_recv,
                "price": self.price,
                "volume": self.volume,
                "conditions": _categorical(self.conditions, self.texts),
            },
            copy=False,
        )

    def lines(self, keep: npt.NDArray[np.bool_]) -> pa.StringArray:
        """The rows of ``keep`` as CSV lines, each with its line feed.

        One pass joins the columns; texts that stand once for many rows bring their separators with
        them. pyarrow's CSV writer takes twice as long, and ten times for zoned timestamps.
        """
        columns: list[npt.NDArray[Any]] = [self.symbol, self.ts_event, self.ts_recv]
        columns += [self.price, self.volume, self.conditions]
        if not keep.all():
            columns = [column[keep] for column in columns]
        symbol, ts_event, ts_recv, price, volume, conditions = map(pa.array, columns)
        utc, comma = pa.scalar("Z,"), pa.scalar(",")
        return pc.binary_join_element_wise(
            pa.array([f"{text}," for text in self.symbols], pa.string()).take(symbol),
            ts_event.cast(pa.string()),
            utc,
            ts_recv.cast(pa.string()),
            utc,
            price.cast(pa.string()),
            comma,
            volume.cast(pa.string()),
            pa.array([f",{text}\n" for text in self.texts], pa.string()).take(conditions),
            "",
        )


def _categorical(numbers: npt.NDArray[np.int32], texts: list[str]) -> pd.Categorical:
    # The numbers were made here, and looking at each again would cost what the schema does.
    return pd.Categorical.from_codes(numbers, pd.Index(texts, dtype=object), validate=False)


def _row(trade: Trade) -> dict[str, Any]:
    """A refused trade as it came: a float64 in JSON has the same digits again."""
    return {"c": trade.c, "p": trade.p, "s": trade.s, "t": trade.t, "v": trade.v}
