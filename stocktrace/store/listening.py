"""How much of a stretch of time a ticker was listened to, by any session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.store.coverage import COVERAGE, read_file
from stocktrace.store.grid import Times
from stocktrace.store.layout import Layout

_US_PER_MS = 1000


@dataclass(frozen=True, slots=True)
class Listening:
    """Stretches in order and apart; ``edges`` are start, end, start, end and so on (epoch us)."""

    edges: npt.NDArray[np.int64]

    @classmethod
    def of(cls, layout: Layout, ticker: str, starts: Times, ends: Times) -> Self:
        """What the coverage on disk says of the days that bars (epoch ms) are in."""
        first, last = (_date(int(starts[0])), _date(int(ends[-1]))) if len(starts) else ("9", "0")
        tables = [
            _heard(read_file(path), ticker)
            for path in layout.root.glob("coverage/date=*/*.parquet")
            if first <= path.parent.name.removeprefix("date=") <= last
        ]
        table = pa.concat_tables([COVERAGE.empty_table(), *tables]).sort_by("start")
        return cls.union(*(table[name].cast("int64").to_numpy() for name in ("start", "end")))

    @classmethod
    def union(cls, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Self:
        """Stretches, sorted by start, that may overlap."""
        if not len(starts):
            return cls(np.empty(0, np.int64))
        reached = np.maximum.accumulate(ends)
        opening = np.flatnonzero(np.concatenate(([True], starts[1:] > reached[:-1])))
        closing = np.append(opening[1:], len(starts)) - 1
        return cls(np.column_stack([starts[opening], reached[closing]]).ravel())

    def missed(self, starts: Times, ends: Times) -> npt.NDArray[np.float64]:
        """Of each stretch from ``starts`` to ``ends`` (epoch ms) the seconds nobody listened."""
        length: npt.NDArray[np.float64] = (ends - starts) / 1e3
        if not len(self.edges) or not len(starts):
            return length
        # Listened time grows between a start and its end, and stands still from there on.
        lengths = np.diff(self.edges)
        lengths[1::2] = 0
        grown = np.concatenate(([0], np.cumsum(lengths)))
        zero = self.edges[0]
        until = [
            np.interp((each * _US_PER_MS - zero).astype(float), (self.edges - zero), grown)
            for each in (starts, ends)
        ]
        missed: npt.NDArray[np.float64] = np.round(length - (until[1] - until[0]) / 1e6, 6)
        return np.maximum(missed, 0.0)


def _heard(table: pa.Table, ticker: str) -> pa.Table:
    return table.filter(
        pc.and_(
            pc.equal(table["symbol"], ticker),
            pc.equal(table["state"], "listening"),
        )
    )


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
