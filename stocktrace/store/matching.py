"""Ticks of REST beside what is published: as multisets, for there is no id (FINNHUB.md).

Two trades are the same if time, price and volume are. Of equal ones on both sides as many match as
the side with fewer has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.store.dataset import read
from stocktrace.store.layout import Layout
from stocktrace.store.query import Query
from stocktrace.store.shelf import Folder

_KEY = ["ts_event", "price", "volume"]
#: ``ts_event`` is UTC, ms.
TICKS = pa.schema(
    [
        pa.field("ts_event", pa.int64(), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("conditions", pa.string(), nullable=False),
    ]
)
_US_PER_MS = 1000
# Rows that are Python's at a time.
_BATCH_ROWS = 50_000

#: A table of that schema.
Ticks: TypeAlias = pa.Table
#: Start and end (exclusive) in epoch us.
Stretches: TypeAlias = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Matching:
    """``lacking`` are rows of theirs that ours has not, a bool each, in their order.

    Of ours, ``copies`` are more than theirs has of an equal one, ``unknown`` equal none of theirs.
    """

    lacking: npt.NDArray[np.bool_]
    copies: int
    unknown: int


def match(theirs: Ticks, ours: Ticks) -> Matching:
    """Compare ticks with trades."""
    their_rows, our_rows = _numbered(theirs), _numbered(ours)
    found = their_rows.merge(our_rows, "left", on=[*_KEY, "number"], indicator="side")
    lacking = (found["side"] == "left_only").to_numpy(bool)
    known = pd.MultiIndex.from_frame(our_rows[_KEY]).isin(
        pd.MultiIndex.from_frame(their_rows[_KEY])
    )
    unknown = int((~known).sum())
    matched = int((~lacking).sum())
    return Matching(lacking, len(our_rows) - unknown - matched, unknown)


def lacking(theirs: Ticks, ours: Ticks) -> Ticks:
    """The ticks that are not among the trades."""
    return theirs.filter(pa.array(match(theirs, ours).lacking))


def in_order(ticks: Sequence[tuple[str, Ticks]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of all tickers by time, some at a time: ``TICKS`` and ``symbol``."""
    tables = [
        table.append_column("symbol", pa.repeat(pa.scalar(ticker), len(table)))
        for ticker, table in ticks
    ]
    for batch in pa.concat_tables(tables).sort_by("ts_event").to_batches(_BATCH_ROWS):
        yield batch.to_pylist()


def first(ticks: Sequence[tuple[str, Ticks]]) -> int:
    """When the first of all happened (ms)."""
    return min(int(pc.min(table["ts_event"]).as_py()) for _, table in ticks)


def count(table: Ticks, stretches: Stretches) -> int:
    """How many rows happened within ``stretches``."""
    return int(inside(table, stretches).sum())


def ticks(pages: Iterable[tuple[Sequence[object], ...]], within: Stretches | None) -> Ticks:
    """A table of ``TICKS`` from columns in their order; only those that happened ``within``."""
    tables = [TICKS.empty_table()]
    for columns in pages:
        table = pa.table(list(columns), schema=TICKS)
        tables.append(table if within is None else table.filter(pa.array(inside(table, within))))
    return pa.concat_tables(tables)


def inside(table: Ticks, stretches: Stretches) -> npt.NDArray[np.bool_]:
    """Which rows happened within one of ``stretches``."""
    times = table["ts_event"].to_numpy() * _US_PER_MS
    nowhere = np.zeros(len(times), bool)
    return reduce(or_, ((times >= start) & (times < end) for start, end in stretches), nowhere)


def published(layout: Layout, ticker: str, stretches: Stretches) -> Ticks:
    """What is published of a ticker and happened within ``stretches``, whoever recorded it.

    Raises:
        StoreError: a file is damaged.
    """
    begin, end = min(start for start, _ in stretches), max(end for _, end in stretches)
    query = Query.of(ticker, _utc(begin), _utc(end))
    table = read(Folder(layout), query, TICKS.names)
    columns = [table["ts_event"].cast(pa.int64()), *(table[name] for name in TICKS.names[1:])]
    ours = pa.table(columns, schema=TICKS)
    return ours.filter(pa.array(inside(ours, stretches)))


def _utc(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def _numbered(table: Ticks) -> pd.DataFrame:
    """Each row with the number of equal ones before it."""
    rows: pd.DataFrame = table.select(_KEY).to_pandas()
    return rows.assign(number=rows.groupby(_KEY, sort=False).cumcount())
