"""Segments: the validated trades of one ticker and window, as CSV.

    .csv.open ──seal: fsync, rename──▶ .csv ──convert──▶ .parquet

Text of a row: times as ``2026-11-23 14:30:00.123Z`` (ms) and ``…00.123456Z`` (µs), numbers as the
shortest text that gives the same float64, no quotes: no text in a row can hold a comma, a quote or
a line feed (``is_ticker``, ``batch``), so a row is a line.
"""
# MERGED """Text of CSV segments as columns; every type is declared, nothing is guessed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv

from stocktrace.errors import ConversionError
from stocktrace.latency import LatencyHistogram
from stocktrace.store import files, validation
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.batch import Batch, BatchColumns
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.quarantine import QuarantinedRow, QuarantineWriter
from stocktrace.trade import COLUMNS
from stocktrace.units import US_PER_MS

HEADER = (",".join(COLUMNS) + "\n").encode()


@dataclass(slots=True)
class TickerCounts:
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
    part: WindowId
    is_published: Container[str] = frozenset()
    tallies: dict[str, TickerCounts] = field(default_factory=dict)
    lags: LatencyHistogram = field(default_factory=LatencyHistogram)
    latest_lag_ms: float = 0.0
    _started: dict[str, Path] = field(default_factory=dict)
    _quarantine: QuarantineWriter = field(init=False)

    def __post_init__(self) -> None:
        self._quarantine = QuarantineWriter(self.layout.quarantine(self.part))

    def quarantine(self, refused: Iterable[QuarantinedRow]) -> None:
        """Keep what could not even be decoded."""
        self._quarantine.add(refused)

    def write(self, batch: Batch) -> None:
        """Validate and append a batch."""
        columns = BatchColumns.of(batch)
        keep = np.ones(len(columns.price), np.bool_)
        refused = validation.find_failures(columns.frame())
        if refused:
            keep[list(refused)] = False
            self._quarantine.add(columns.drop_rows(at, why) for at, why in refused.items())
        # Of what was refused, the time may be the reason.
        delays_ms = (columns.ts_recv - columns.ts_event)[keep].view(np.int64) / US_PER_MS
        self.lags.add(delays_ms)
        if len(delays_ms):
            middle = len(delays_ms) // 2
            self.latest_lag_ms = float(np.partition(delays_ms, middle)[middle])
        ends = np.cumsum(columns.counts)
        kept = np.concatenate(([0], np.cumsum(keep)))[ends]
        self._append(columns.symbols, kept, columns.lines(keep))
        for ticker, count, recorded in zip(
            columns.symbols, columns.counts, np.diff(kept, prepend=0).tolist(), strict=True
        ):
            tally = self.tallies.setdefault(ticker, TickerCounts())
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
            if stop > begin and ticker not in self.is_published:
                files.append(
                    self._started.get(ticker) or self._open_segment(ticker), view[begin:stop]
                )
            begin = stop

    def _open_segment(self, ticker: str) -> Path:
        path = self.layout.open_csv(ticker, self.part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an attempt that died
        files.append(path, HEADER)
        self._started[ticker] = path
        return path

    def seal(self, unless: Iterable[str] = ()) -> None:
        """All rows are written: give the segments their names, but those of ``unless``."""
        left = set(unless)
        whole = {ticker: path for ticker, path in self._started.items() if ticker not in left}
        files.sync_files(list(whole.values()))
        for ticker, path in whole.items():
            path.rename(self.layout.csv(ticker, self.part))
        self._quarantine.seal()


_BLOCK = 1 << 20
_PARSE_OPTIONS = pcsv.ParseOptions(quote_char=False)
_CONVERT_OPTIONS = pcsv.ConvertOptions(
    column_types=TRADE_SCHEMA,
    include_columns=TRADE_SCHEMA.names,
    null_values=[],
    strings_can_be_null=False,
)


def parse_segment(path: Path, source: Path | pa.BufferReader) -> Iterator[pa.RecordBatch]:
    """The rows of a segment, behind its header, of ``SCHEMA``; ``path`` is its name for a person.

    Raises:
        ConversionError: it is none.
    """
    read = pcsv.ReadOptions(
        use_threads=False, block_size=_BLOCK, column_names=list(COLUMNS), skip_rows=1
    )
    try:
        with pcsv.open_csv(source, read, _PARSE_OPTIONS, _CONVERT_OPTIONS) as reader:
            for batch in reader:
                yield batch.cast(TRADE_SCHEMA)
    except pa.ArrowInvalid as error:
        raise ConversionError(f"{path} is not a segment: {error}.") from error


def parse_lines(lines: bytes) -> pa.Table:
    """Whole lines, without header, as a table of ``SCHEMA``; the order stays.

    They may be of several segments: for who reads along.

    Raises:
        ConversionError: they are not of a segment.
    """
    if not lines:
        return TRADE_SCHEMA.empty_table()
    read = pcsv.ReadOptions(use_threads=False, column_names=list(COLUMNS))
    try:
        return pcsv.read_csv(pa.BufferReader(lines), read, _PARSE_OPTIONS, _CONVERT_OPTIONS).cast(
            TRADE_SCHEMA
        )
    except pa.ArrowInvalid as error:
        raise ConversionError(f"These lines are of no segment: {error}.") from error
