"""Ticks of REST beside what is published: as multisets, for there is no id (FINNHUB.md).

Two trades are the same if time, price and volume are. Of equal ones on both sides as many match as
the side with fewer has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.query.criteria import TradeQuery
from stocktrace.query.trades import read_query
from stocktrace.store.layout import Layout
from stocktrace.store.source import FolderSource
from stocktrace.units import NS_PER_US, US_PER_MS, utc_datetime

_KEY = ["ts_event", "price", "volume"]
#: ``ts_event`` is UTC, ms.
TICK_SCHEMA = pa.schema(
    [
        pa.field("ts_event", pa.int64(), nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("conditions", pa.string(), nullable=False),
    ]
)
# Rows that are Python's at a time.
_BATCH_ROWS = 50_000

#: A table of that schema.
TickPages: TypeAlias = pa.Table
#: Start and end (exclusive) in epoch us.
TimeSpans: TypeAlias = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TickMatch:
    """``lacking`` are rows of theirs that ours has not, a bool each, in their order.

    Of ours, ``copies`` are more than theirs has of an equal one, ``unknown`` equal none of theirs.
    """

    missing: npt.NDArray[np.bool_]
    duplicates: int
    unmatched: int


def match_ticks(theirs: TickPages, ours: TickPages) -> TickMatch:
    """Compare ticks with trades."""
    their_rows, our_rows = _with_ordinal(theirs), _with_ordinal(ours)
    found = their_rows.merge(our_rows, "left", on=[*_KEY, "number"], indicator="side")
    lacking = (found["side"] == "left_only").to_numpy(bool)
    known = pd.MultiIndex.from_frame(our_rows[_KEY]).isin(
        pd.MultiIndex.from_frame(their_rows[_KEY])
    )
    unknown = int((~known).sum())
    matched = int((~lacking).sum())
    return TickMatch(lacking, len(our_rows) - unknown - matched, unknown)


def missing_ticks(theirs: TickPages, ours: TickPages) -> TickPages:
    """The ticks that are not among the trades."""
    return theirs.filter(pa.array(match_ticks(theirs, ours).missing))


def sort_ticks(ticks: Sequence[tuple[str, TickPages]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of all tickers by time, some at a time: ``TICKS`` and ``symbol``."""
    tables = [
        table.append_column("symbol", pa.repeat(pa.scalar(ticker), len(table)))
        for ticker, table in ticks
    ]
    for batch in pa.concat_tables(tables).sort_by("ts_event").to_batches(_BATCH_ROWS):
        yield batch.to_pylist()


def first_tick_us(ticks: Sequence[tuple[str, TickPages]]) -> int:
    """When the first of all happened (ms)."""
    return min(int(pc.min(table["ts_event"]).as_py()) for _, table in ticks)


def count_within(table: TickPages, stretches: TimeSpans) -> int:
    """How many rows happened within ``stretches``."""
    return int(filter_within(table, stretches).sum())


def tick_table(
    pages: Iterable[tuple[Sequence[object], ...]], within: TimeSpans | None
) -> TickPages:
    """A table of ``TICKS`` from columns in their order; only those that happened ``within``."""
    tables = [TICK_SCHEMA.empty_table()]
    for columns in pages:
        table = pa.table(list(columns), schema=TICK_SCHEMA)
        tables.append(
            table if within is None else table.filter(pa.array(filter_within(table, within)))
        )
    return pa.concat_tables(tables)


def filter_within(table: TickPages, stretches: TimeSpans) -> npt.NDArray[np.bool_]:
    """Which rows happened within one of ``stretches``."""
    times = table["ts_event"].to_numpy() * US_PER_MS
    nowhere = np.zeros(len(times), bool)
    return reduce(or_, ((times >= start) & (times < end) for start, end in stretches), nowhere)


def published_ticks(layout: Layout, ticker: str, stretches: TimeSpans) -> TickPages:
    """What is published of a ticker and happened within ``stretches``, whoever recorded it.

    Raises:
        StoreError: a file is damaged.
    """
    begin, end = min(start for start, _ in stretches), max(end for _, end in stretches)
    query = TradeQuery.of(ticker, utc_datetime(begin * NS_PER_US), utc_datetime(end * NS_PER_US))
    table = read_query(FolderSource(layout), query, TICK_SCHEMA.names)
    columns = [table["ts_event"].cast(pa.int64()), *(table[name] for name in TICK_SCHEMA.names[1:])]
    ours = pa.table(columns, schema=TICK_SCHEMA)
    return ours.filter(pa.array(filter_within(ours, stretches)))


def _with_ordinal(table: TickPages) -> pd.DataFrame:
    """Each row with the number of equal ones before it."""
    rows: pd.DataFrame = table.select(_KEY).to_pandas()
    return rows.assign(number=rows.groupby(_KEY, sort=False).cumcount())
