"""How long a ticker was listened to, by any session, within intervals of time."""

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
    """Disjoint spans in order; ``edges`` are start, end, start, end and so on (epoch us).

    From ``unknown`` on (epoch ms) a session is running, which writes its coverage when it ends.
    """

    edges: npt.NDArray[np.int64]
    unknown: int = LATEST_MS

    @classmethod
    def of(
        cls, source: DataSource, ticker: str, starts: EpochMs, ends: EpochMs, unknown: int
    ) -> Self:
        """Read the coverage of the days of some bars (epoch ms)."""
        first, last = (_date(int(starts[0])), _date(int(ends[-1]))) if len(starts) else ("9", "0")
        tables = [
            _listening_rows(read_coverage_file(path, source.files), ticker)
            for path in source.coverage_files()
            if first <= partition_date(Path(path)) <= last
        ]
        table = pa.concat_tables([COVERAGE_SCHEMA.empty_table(), *tables])
        edges = (table[name].cast("int64").to_pylist() for name in ("start", "end"))
        spans = merge_spans(zip(*edges, strict=True))
        return cls(np.array(spans, np.int64).ravel(), unknown)

    def gap_seconds(self, starts: EpochMs, ends: EpochMs) -> npt.NDArray[np.float64]:
        """Return the seconds not listened from ``starts`` to ``ends``; nan if not yet known."""
        length: npt.NDArray[np.float64] = (ends - starts) / MS_PER_SECOND
        seconds = np.maximum(np.round(length - self._listened_seconds(starts, ends), 6), 0.0)
        seconds[(ends > self.unknown) & (seconds > 0)] = np.nan
        return seconds

    def _listened_seconds(self, starts: EpochMs, ends: EpochMs) -> npt.NDArray[np.float64]:
        if not len(self.edges) or not len(starts):
            return np.zeros(len(starts))
        # Cumulated listened time grows between a start and its end, and is constant otherwise.
        lengths = np.diff(self.edges)
        lengths[1::2] = 0
        cumulated = np.concatenate(([0], np.cumsum(lengths)))
        zero = self.edges[0]
        at_starts, at_ends = (
            np.interp((times * US_PER_MS - zero).astype(float), self.edges - zero, cumulated)
            for times in (starts, ends)
        )
        seconds: npt.NDArray[np.float64] = (at_ends - at_starts) / US_PER_SECOND
        return seconds


def running_since(source: DataSource) -> int:
    """Return when the first of the running sessions began (epoch ms)."""
    return min(map(_session_start, source.running_sessions()), default=LATEST_MS)


def _session_start(session: str) -> int:
    return epoch_ms(datetime.strptime(f"{session[:15]}+0000", "%Y%m%dT%H%M%S%z"))


def _listening_rows(table: pa.Table, ticker: str) -> pa.Table:
    return table.filter(
        pc.and_(pc.equal(table["symbol"], ticker), pc.equal(table["state"], "listening"))
    )


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / MS_PER_SECOND, UTC).date().isoformat()
