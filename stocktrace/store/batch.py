"""A batch: trades of many tickers and reads as columns, validated and written together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.quarantine import QuarantinedRow
from stocktrace.trade import COLUMNS, is_ticker
from stocktrace.units import NS_PER_US

# A condition code: printable ASCII without the separators of CSV and of the list of codes.
_CODE = re.compile(r"[!#-+\--~]{1,16}")

#: Rows of one ticker in one read.
Chunk = tuple[DecodedRead, range]
#: Each ticker once, with its chunks in the order of arrival.
Batch = Sequence[tuple[str, Sequence[Chunk]]]


class BatchColumns:
    """A batch of at least one row, as columns of equal length, sorted by ticker, then by arrival.

    - ``ts_event`` datetime64[ms], ``ts_recv`` datetime64[us] (both UTC)
    - ``price`` and ``volume`` float64
    - ``symbol`` and ``conditions`` int32: indices into ``symbols`` and ``texts``; -1 if the value
      cannot be stored
    - ``arrival`` int64: an index into ``stamps`` (UTC, µs)
    - ``read`` int64: an index into ``reads``; ``row`` int64: the row there

    ``counts`` has the number of rows of each ticker in ``symbols``.
    """

    def __init__(self, batch: Batch) -> None:
        chunks = [chunk for _, some in batch for chunk in some]
        self.symbols = [ticker for ticker, _ in batch]
        self.reads = reads = list(dict.fromkeys([read for read, _ in chunks]))
        numbers = {read: number for number, read in enumerate(reads)}
        lengths = np.array([len(rows) for _, rows in chunks])
        firsts = np.cumsum([0, *[len(some) for _, some in batch[:-1]]])
        self.counts: list[int] = np.add.reduceat(lengths, firsts).tolist()
        self.read: npt.NDArray[np.int64] = np.repeat([numbers[read] for read, _ in chunks], lengths)
        # For each row of the batch: its row in its read, and in all reads concatenated.
        begins = np.array([rows.start for _, rows in chunks]) - np.cumsum(lengths) + lengths
        self.row: npt.NDArray[np.int64] = np.arange(len(self.read)) + np.repeat(begins, lengths)
        at = self.row + np.cumsum([0, *map(len, reads[:-1])])[self.read]

        def column(name: str) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = np.concatenate([getattr(read, name) for read in reads])[at]
            return values

        storable = [at if _is_ticker(ticker) else -1 for at, ticker in enumerate(self.symbols)]
        self.symbol: npt.NDArray[np.int32] = np.repeat(np.array(storable, np.int32), self.counts)
        self.texts, conditions = _conditions(reads)
        self.conditions: npt.NDArray[np.int32] = conditions[at]
        stamps = [frames.stamp // NS_PER_US for read in reads for frames in read.arrivals]
        self.stamps: npt.NDArray[np.datetime64] = np.array(stamps, np.int64).view("datetime64[us]")
        earlier = np.cumsum([0, *(len(read.arrivals) for read in reads[:-1])])
        self.arrival: npt.NDArray[np.int64] = column("arrival") + earlier[self.read]
        self.ts_recv: npt.NDArray[np.datetime64] = self.stamps[self.arrival]
        self.ts_event: npt.NDArray[np.datetime64] = column("ts_event").view("datetime64[ms]")
        self.price: npt.NDArray[np.float64] = column("price")
        self.volume: npt.NDArray[np.float64] = column("volume")

    def quarantine_rows(self, reasons: Mapping[int, str]) -> Iterator[QuarantinedRow]:
        """Yield rows of the batch for the quarantine: their positions, each with its reason."""
        places = np.fromiter(reasons, np.int64, len(reasons))
        tickers = np.searchsorted(np.cumsum(self.counts), places, side="right")
        frames = {
            number: iter(
                self.reads[number].frames_of(self.row[places[self.read[places] == number]])
            )
            for number in np.unique(self.read[places]).tolist()
        }
        for (at, reason), ticker in zip(reasons.items(), tickers.tolist(), strict=True):
            number, row = int(self.read[at]), int(self.row[at])
            read = self.reads[number]
            # As Finnhub sends it; a float64 in JSON keeps its digits.
            received = {
                "c": read.numbering.codes.distinct[read.codes[row]],
                "p": float(read.price[row]),
                "s": self.symbols[ticker],
                "t": int(read.ts_event[row]),
                "v": float(read.volume[row]),
            }
            yield QuarantinedRow(read.stamp_of(row), next(frames[number]), received, reason)

    def frame(self) -> pd.DataFrame:
        """Return the frame that ``validation`` checks, without copying a column."""
        return pd.DataFrame({name: getattr(self, name) for name in COLUMNS}, copy=False)

    def lines(self, valid: npt.NDArray[np.bool_]) -> pa.StringArray:
        """Return the ``valid`` rows as CSV lines, each with its line feed.

        One pass joins the columns; texts that many rows share include their separator. pyarrow's
        CSV writer takes twice as long, and ten times as long for timestamps with a zone.
        """
        columns: list[npt.NDArray[Any]] = [self.symbol, self.ts_event, self.arrival]
        columns += [self.price, self.volume, self.conditions]
        if not valid.all():
            columns = [column[valid] for column in columns]
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


def _format_numbers(numbers: pa.DoubleArray, separator: str) -> pa.StringArray:
    """Return each number as text with a separator; formats a repeated number once."""
    distinct = numbers.dictionary_encode()
    texts = pc.binary_join_element_wise(distinct.dictionary.cast(pa.string()), separator, "")
    return texts.take(distinct.indices)


# A batch asks for each of its tickers.
_is_ticker = lru_cache(1 << 14)(is_ticker)


@lru_cache(4096)
def _text(codes: tuple[str, ...] | None) -> str | None:
    """Return the codes as one text; ``None`` if a code cannot be stored."""
    return " ".join(codes or ()) if all(map(_CODE.fullmatch, codes or ())) else None


def _conditions(reads: Sequence[DecodedRead]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Return the texts of conditions, and the index of the text of each row of ``reads``, or -1."""
    texts: dict[str, int] = {}
    columns = []
    for read in reads:
        counts = np.bincount(read.codes)
        numbers = np.zeros(len(counts), np.int32)
        for at in np.flatnonzero(counts).tolist():
            text = _text(read.numbering.codes.distinct[at])
            numbers[at] = -1 if text is None else texts.setdefault(text, len(texts))
        columns.append(numbers[read.codes])
    return list(texts), np.concatenate(columns)
