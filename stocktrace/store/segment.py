"""Segments: the validated trades of one ticker and window, as CSV.

    .csv.open ──seal: fsync, rename──▶ .csv ──convert──▶ .parquet

Text of a row: times as ``2026-11-23 14:30:00.123Z`` (ms) and ``…00.123456Z`` (µs), numbers as the
shortest text that gives the same float64, no quotes: no text in a row can hold a comma, a quote or
a line feed (``is_ticker``, ``_CODE``), so a row is a line.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Container, Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from itertools import accumulate, chain
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


class Codes(dict[tuple[str, ...] | None, int]):
    """Numbers lists of condition codes as they are met; a window needs a few dozen."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: list[tuple[str, ...] | None] = []

    def __missing__(self, codes: tuple[str, ...] | None) -> int:
        number = len(self.lists)
        self.lists.append(codes)
        self[codes] = number
        return number


@dataclass(slots=True, eq=False)
class Read:
    """One read of the socket (epoch ns): its frames, and the trades in them as columns.

    ``messages[i]`` are the trades of ``frames[i]``; a *row* is a trade's place among all of them.
    The trades themselves are let go at once, on the core that has them in its cache: one that had
    to fetch each of their objects later would take 2,000 ns a trade, and takes 200 for columns.
    """

    stamp: int
    frames: Sequence[bytes]
    messages: InitVar[Sequence[Sequence[Trade]]]
    codes: Codes = field(default_factory=Codes)
    ts_event: array[int] = field(init=False)
    price: array[float] = field(init=False)
    volume: array[float] = field(init=False)
    conditions: array[int] = field(init=False)
    _lengths: list[int] = field(init=False)

    def __post_init__(self, messages: Sequence[Sequence[Trade]]) -> None:
        trades = [trade for message in messages for trade in message]
        numbers = self.codes
        self.ts_event = array("q", [trade.t for trade in trades])
        self.price = array("d", [trade.p for trade in trades])
        self.volume = array("d", [trade.v for trade in trades])
        self.conditions = array("i", [numbers[trade.c] for trade in trades])
        self._lengths = list(map(len, messages))

    def __len__(self) -> int:
        return len(self.price)

    def trade(self, row: int, ticker: str) -> Trade:
        """The trade of a row, which is one of ``ticker``."""
        codes = self.codes.lists[self.conditions[row]]
        return Trade(ticker, self.price[row], self.ts_event[row], self.volume[row], codes)

    def frame_of(self, row: int) -> bytes:
        """The raw frame that a row came in."""
        return self.frames[bisect_right(list(accumulate(self._lengths)), row)]


#: Rows of one ticker in one read, in their order.
Chunk = tuple[Read, Sequence[int]]
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
        columns = _Columns.of(batch)
        keep = np.ones(len(columns.price), np.bool_)
        refused = schema.failures(columns.frame())
        if refused:
            keep[list(refused)] = False
            self._quarantine.put(columns.refused(at, why) for at, why in refused.items())
        # Of what was refused, the time may be the reason.
        delays_ms = (columns.ts_recv - columns.ts_event)[keep].view(np.int64) / 1000.0
        self.lags.add(delays_ms)
        if len(delays_ms):
            self.latest_lag_ms = float(np.median(delays_ms))
        ends = np.cumsum(columns.counts)
        kept = np.concatenate(([0], np.cumsum(keep)))[ends]
        self._append(columns.symbols, kept, columns.lines(keep))
        for ticker, count, recorded in zip(
            columns.symbols, columns.counts, np.diff(kept, prepend=0).tolist(), strict=True
        ):
            tally = self.tallies.setdefault(ticker, Tally())
            tally.recorded += recorded
            tally.quarantined += count - recorded

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


@lru_cache(4096)
def _text(codes: tuple[str, ...] | None) -> str | None:
    """Codes as a row carries them; ``None`` if it cannot."""
    return " ".join(codes or ()) if all(map(_CODE.fullmatch, codes or ())) else None


@dataclass(slots=True)
class _Columns:
    """A batch as columns of equal length, sorted by ticker and within it by arrival.

    ``symbol`` and ``conditions`` are numbers (int32) into their texts, -1 for what has none;
    ``read`` those into ``reads``, and ``row`` the row there. ``counts`` are the rows of each
    ticker in ``symbols``.
    """

    symbol: npt.NDArray[np.int32]
    symbols: list[str]
    counts: list[int]
    ts_event: npt.NDArray[np.datetime64]
    ts_recv: npt.NDArray[np.datetime64]
    price: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    conditions: npt.NDArray[np.int32]
    texts: list[str]
    reads: list[Read]
    read: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]

    @classmethod
    def of(cls, batch: Batch) -> _Columns:
        chunks = [chunk for _, some in batch for chunk in some]
        counts = [sum([len(rows) for _, rows in some]) for _, some in batch]
        reads = list(dict.fromkeys([read for read, _ in chunks]))
        numbers = {read: number for number, read in enumerate(reads)}
        lengths = [len(rows) for _, rows in chunks]
        read = np.repeat([numbers[read] for read, _ in chunks], lengths)
        row = np.frombuffer(array("q", chain.from_iterable([rows for _, rows in chunks])), np.int64)
        # The reads one after another, as they came; then the rows of the batch in its order.
        begins = np.cumsum([0, *map(len, reads[:-1])])
        at = begins[read] + row
        symbols = [ticker for ticker, _ in batch]
        storable = [at if is_ticker(ticker) else -1 for at, ticker in enumerate(symbols)]
        texts, conditions = _conditions(reads)
        stamps = np.array([read.stamp // 1000 for read in reads], np.int64)
        return cls(
            np.repeat(np.array(storable, np.int32), counts),
            symbols,
            counts,
            _joined([read.ts_event for read in reads], np.int64)[at].view("datetime64[ms]"),
            stamps[read].view("datetime64[us]"),
            _joined([read.price for read in reads], np.float64)[at],
            _joined([read.volume for read in reads], np.float64)[at],
            conditions[at],
            texts,
            reads,
            read,
            row,
        )

    def refused(self, at: int, why: str) -> Refused:
        """Row ``at`` of the batch for the quarantine."""
        read, row = self.reads[self.read[at]], int(self.row[at])
        ticker = self.symbols[bisect_right(list(accumulate(self.counts)), at)]
        return Refused(read.stamp, read.frame_of(row), _row(read.trade(row, ticker)), why)

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
        columns: list[npt.NDArray[Any]] = [self.symbol, self.ts_event, self.read]
        columns += [self.price, self.volume, self.conditions]
        if not keep.all():
            columns = [column[keep] for column in columns]
        symbol, ts_event, read, price, volume, conditions = map(pa.array, columns)
        stamps = np.array([read.stamp // 1000 for read in self.reads]).view("datetime64[us]")
        utc = pa.scalar("Z,")
        received = pc.binary_join_element_wise(utc, pa.array(stamps).cast(pa.string()), utc, "")
        return pc.binary_join_element_wise(
            pa.array([f"{text}," for text in self.symbols], pa.string()).take(symbol),
            ts_event.cast(pa.string()),
            received.take(read),
            price.cast(pa.string()),
            pa.scalar(","),
            volume.cast(pa.string()),
            pa.array([f",{text}\n" for text in self.texts], pa.string()).take(conditions),
            "",
        )


def _texts(column: pa.Array) -> pa.StringArray:
    """A column as texts; each value is spelled once, for many rows have the same."""
    encoded = pc.dictionary_encode(column)
    return encoded.dictionary.cast(pa.string()).take(encoded.indices)


def _joined(columns: Sequence[array[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    """Columns one after another."""
    return np.frombuffer(b"".join(columns), kind)


def _conditions(reads: Sequence[Read]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The texts of conditions, and for each row of all ``reads`` the number of its text, or -1."""
    tables = {id(read.codes): read.codes for read in reads}
    texts: dict[str, int] = {}
    numbers: list[int] = []  # of the texts of all tables' lists
    begins: dict[int, int] = {}
    for key, table in tables.items():
        begins[key] = len(numbers)
        for codes in list(table.lists):  # the feed's thread may append meanwhile
            text = _text(codes)
            numbers.append(-1 if text is None else texts.setdefault(text, len(texts)))
    rows = _joined([read.conditions for read in reads], np.int32)
    if len(tables) > 1:
        rows = rows + np.repeat([begins[id(read.codes)] for read in reads], list(map(len, reads)))
    return list(texts), np.array(numbers, np.int32)[rows]


def _categorical(numbers: npt.NDArray[np.int32], texts: list[str]) -> pd.Categorical:
    # The numbers were made here, and looking at each again would cost what the schema does.
    return pd.Categorical.from_codes(numbers, pd.Index(texts, dtype=object), validate=False)


def _row(trade: Trade) -> dict[str, Any]:
    """A refused trade as it came: a float64 in JSON has the same digits again."""
    return {"c": trade.c, "p": trade.p, "s": trade.s, "t": trade.t, "v": trade.v}
