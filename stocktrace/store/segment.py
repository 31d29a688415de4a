"""Segments: the validated trades of one ticker and window, as CSV.

    .csv.open ──seal: fsync, rename──▶ .csv ──convert──▶ .parquet

Text of a row: times as ``2026-11-23 14:30:00.123Z`` (ms) and ``…00.123456Z`` (µs), numbers as the
shortest text that gives the same float64, no quotes: no text in a row can hold a comma, a quote or
a line feed (``is_ticker``, ``batch``), so a row is a line.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.lags import Lags
from stocktrace.store import files, schema
from stocktrace.store.batch import Batch, Columns
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.store.quarantine import Quarantine, Refused
from stocktrace.trade import COLUMNS

HEADER = (",".join(COLUMNS) + "\n").encode()


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
        columns = Columns.of(batch)
        keep = np.ones(len(columns.price), np.bool_)
        refused = schema.failures(columns.frame())
        if refused:
            keep[list(refused)] = False
            self._quarantine.put(columns.refused(at, why) for at, why in refused.items())
        # Of what was refused, the time may be the reason.
        delays_ms = (columns.ts_recv - columns.ts_event)[keep].view(np.int64) / 1000.0
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
        whole = {ticker: path for ticker, path in self._started.items() if ticker not in left}
        files.sync_all(list(whole.values()))
        for ticker, path in whole.items():
            path.rename(self.layout.csv(ticker, self.part))
        self._quarantine.seal()
