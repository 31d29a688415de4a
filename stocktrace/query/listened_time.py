"""How much of a stretch of time a ticker was listened to, by any session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.intervals import merge_spans
from stocktrace.query.bar_grid import EpochMs
from stocktrace.store.coverage import COVERAGE_SCHEMA, read_coverage_file
from stocktrace.store.partition import partition_date
from stocktrace.store.source import DataSource
from stocktrace.units import MS_PER_SECOND, US_PER_MS, US_PER_SECOND, epoch_ms

LATEST_MS = 2**62


@dataclass(frozen=True, slots=True)
class ListenedTime:
    """Stretches in order and apart; ``edges`` are start, end, start, end and so on (epoch us).

    From ``unknown`` on (epoch ms) a session is alive, whose coverage will be written when it ends.
    """

    edges: npt.NDArray[np.int64]
    unknown: int = LATEST_MS

    @classmethod
    def of(
        cls, shelf: DataSource, ticker: str, starts: EpochMs, ends: EpochMs, unknown: int
    ) -> Self:
        """What the coverage says of the days that bars (epoch ms) are in."""
        first, last = (_date(int(starts[0])), _date(int(ends[-1]))) if len(starts) else ("9", "0")
        tables = [
            _listened_spans(read_coverage_file(path, shelf.files), ticker)
            for path in shelf.coverage_files()
            if first <= partition_date(Path(path)) <= last
        ]
        table = pa.concat_tables([COVERAGE_SCHEMA.empty_table(), *tables])
        edges = (table[name].cast("int64").to_pylist() for name in ("start", "end"))
        spans = merge_spans(zip(*edges, strict=True))
        return cls(np.array(spans, np.int64).ravel(), unknown)

    def gap_ms(self, starts: EpochMs, ends: EpochMs) -> npt.NDArray[np.float64]:
        """The seconds nobody listened from ``starts`` to ``ends`` (ms); nan: not yet known."""
        length: npt.NDArray[np.float64] = (ends - starts) / MS_PER_SECOND
        missed = np.maximum(np.round(length - self._listened_ms(starts, ends), 6), 0.0)
        missed[(ends > self.unknown) & (missed > 0)] = np.nan
        return missed

    def _listened_ms(self, starts: EpochMs, ends: EpochMs) -> npt.NDArray[np.float64]:
        if not len(self.edges) or not len(starts):
            return np.zeros(len(starts))
        # Listened time grows between a start and its end, and stands still from there on.
        lengths = np.diff(self.edges)
        lengths[1::2] = 0
        grown = np.concatenate(([0], np.cumsum(lengths)))
        zero = self.edges[0]
        until = [
            np.interp((each * US_PER_MS - zero).astype(float), (self.edges - zero), grown)
            for each in (starts, ends)
        ]
        heard: npt.NDArray[np.float64] = (until[1] - until[0]) / US_PER_SECOND
        return heard


def running_since(shelf: DataSource) -> int:
    """When the first of the sessions began that are alive (epoch ms)."""
    return min(map(_start_of, shelf.running_sessions()), default=LATEST_MS)


def _start_of(session: str) -> int:
    return epoch_ms(datetime.strptime(f"{session[:15]}+0000", "%Y%m%dT%H%M%S%z"))


def _listened_spans(table: pa.Table, ticker: str) -> pa.Table:
    return table.filter(
        pc.and_(
            pc.equal(table["symbol"], ticker),
            pc.equal(table["state"], "listening"),
        )
    )


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / MS_PER_SECOND, UTC).date().isoformat()
