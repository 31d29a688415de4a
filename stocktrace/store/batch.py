"""A batch: trades of many tickers and reads as columns, checked and written together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.quarantine import QuarantinedRow
from stocktrace.trade import Trade, is_ticker
from stocktrace.units import NS_PER_US

# A condition code: anything printable that neither the CSV nor the list of codes is parted by.
_CODE = re.compile(r"[!#-+\--~]{1,16}")

#: Rows of one ticker in one read.
Chunk = tuple[DecodedRead, range]
#: Tickers, each once, with their chunks in the order of arrival.
Batch = Sequence[tuple[str, Sequence[Chunk]]]


@dataclass(slots=True)
class BatchColumns:
    """A batch as columns of equal length, sorted by ticker and within it by arrival.

    ``symbol`` and ``conditions`` are numbers (int32) into their texts, -1 for what has none,
    ``arrival`` such into ``stamps`` (UTC, µs), ``read`` into ``reads``, and ``row`` is the row
    there. ``counts`` are the rows of each ticker in ``symbols``.
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
    arrival: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.datetime64]
    reads: list[DecodedRead]
    read: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]

    @classmethod
    def of(cls, batch: Batch) -> BatchColumns:
        """The columns of a batch with at least one row."""
        chunks = [chunk for _, some in batch for chunk in some]
        counts = [sum([len(rows) for _, rows in some]) for _, some in batch]
        reads = list(dict.fromkeys([read for read, _ in chunks]))
        numbers = {read: number for number, read in enumerate(reads)}
        lengths = np.array([len(rows) for _, rows in chunks])
        read = np.repeat([numbers[read] for read, _ in chunks], lengths)
        # Of each row of the batch: its row in its read, and in all reads one after another.
        begins = np.array([rows.start for _, rows in chunks])
        row = np.arange(len(read)) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
        at = row + np.cumsum([0, *map(len, reads[:-1])])[read]
        symbols = [ticker for ticker, _ in batch]
        storable = [at if is_ticker(ticker) else -1 for at, ticker in enumerate(symbols)]
        texts, conditions = _conditions(reads)
        stamps = np.array(
            [one.stamp // NS_PER_US for read in reads for one in read.arrivals], np.int64
        )
        earlier = np.cumsum([0, *(len(read.arrivals) for read in reads[:-1])])
        arrival = np.concatenate([read.arrival for read in reads])[at] + earlier[read]
        return cls(
            np.repeat(np.array(storable, np.int32), counts),
            symbols,
            counts,
            np.concatenate([read.ts_event for read in reads])[at].view("datetime64[ms]"),
            stamps[arrival].view("datetime64[us]"),
            np.concatenate([read.price for read in reads])[at],
            np.concatenate([read.volume for read in reads])[at],
            conditions[at],
            texts,
            arrival,
            stamps.view("datetime64[us]"),
            reads,
            read,
            row,
        )

    def drop_rows(self, at: int, why: str) -> QuarantinedRow:
        """Row ``at`` of the batch for the quarantine."""
        read, row = self.reads[self.read[at]], int(self.row[at])
        return QuarantinedRow(read.stamp_of(row), read.frame_of(row), _row(read.trade(row)), why)

    def frame(self) -> pd.DataFrame:
        """As the schema wants it; no column is copied."""
        return pd.DataFrame(
            {
                "symbol": self.symbol,
                "ts_event": self.ts_event,
                "ts_recv": self.ts_recv,
                "price": self.price,
                "volume": self.volume,
                "conditions": self.conditions,
            },
            copy=False,
        )

    def lines(self, keep: npt.NDArray[np.bool_]) -> pa.StringArray:
        """The rows of ``keep`` as CSV lines, each with its line feed.

        One pass joins the columns; texts that stand once for many rows bring their separators with
        them. pyarrow's CSV writer takes twice as long, and ten times for zoned timestamps.
        """
        columns: list[npt.NDArray[Any]] = [self.symbol, self.ts_event, self.arrival]
        columns += [self.price, self.volume, self.conditions]
        if not keep.all():
            columns = [column[keep] for column in columns]
        symbol, ts_event, arrival, price, volume, conditions = map(pa.array, columns)
        received = pc.binary_join_element_wise(
            "Z,", pa.array(self.stamps).cast(pa.string()), "Z,", ""
        )
        return pc.binary_join_element_wise(
            pa.array([f"{text}," for text in self.symbols], pa.string()).take(symbol),
            ts_event.cast(pa.string()),
            received.take(arrival),
            _format_numbers(price, ","),
            _format_numbers(volume, ","),
            pa.array([f"{text}\n" for text in self.texts], pa.string()).take(conditions),
            "",
        )


def _format_numbers(numbers: pa.DoubleArray, end: str) -> pa.StringArray:
    """Each number as text, then ``end``. Those of a batch are the same ones again and again."""
    distinct = numbers.dictionary_encode()
    texts = pc.binary_join_element_wise(distinct.dictionary.cast(pa.string()), end, "")
    return texts.take(distinct.indices)


@lru_cache(4096)
def _text(codes: tuple[str, ...] | None) -> str | None:
    """Codes as a row carries them; ``None`` if it cannot."""
    return " ".join(codes or ()) if all(map(_CODE.fullmatch, codes or ())) else None


def _conditions(reads: Sequence[DecodedRead]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The texts of conditions, and for each row of all ``reads`` the number of its text, or -1."""
    texts: dict[str, int] = {}
    columns = []
    for read in reads:
        counts = np.bincount(read.codes)
        used = np.flatnonzero(counts)
        numbers = np.zeros(len(counts), np.int32)
        for at in used.tolist():
            text = _text(read.numbering.codes.distinct[at])
            numbers[at] = -1 if text is None else texts.setdefault(text, len(texts))
        columns.append(numbers[read.codes])
    return list(texts), np.concatenate(columns)


def _row(trade: Trade) -> dict[str, Any]:
    """A refused trade as it came: a float64 in JSON has the same digits again."""
    return {"c": trade.c, "p": trade.p, "s": trade.s, "t": trade.t, "v": trade.v}
