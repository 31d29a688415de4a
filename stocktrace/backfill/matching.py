"""Matching of ticks from REST with published trades, as multisets: ticks have no id (FINNHUB.md).

Two trades are equal if time, price and volume are. Of equal trades, as many match as the side with
fewer of them has.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import reduce
from operator import or_
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from stocktrace.feed.rest import RestClient, fetch_ticks
from stocktrace.intervals import TimeSpan
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
#: A table of that schema.
TickTable: TypeAlias = pa.Table


def find_missing(ticks: TickTable, trades: TickTable) -> npt.NDArray[np.bool_]:
    """Return a bool for each tick: no trade matches it."""
    tick_rows, trade_rows = _with_ordinal(ticks), _with_ordinal(trades)
    joined = tick_rows.merge(trade_rows, "left", on=[*_KEY, "ordinal"], indicator="side")
    return (joined["side"] == "left_only").to_numpy(bool)


def _with_ordinal(table: TickTable) -> pd.DataFrame:
    """Add the number of equal rows before each row."""
    rows: pd.DataFrame = table.select(_KEY).to_pandas()
    return rows.assign(ordinal=rows.groupby(_KEY, sort=False).cumcount())


def count_unmatched(trades: TickTable, ticks: TickTable) -> int:
    """Count the trades without an equal tick."""
    trade_keys, tick_keys = (
        pd.MultiIndex.from_frame(table.select(_KEY).to_pandas()) for table in (trades, ticks)
    )
    return int((~trade_keys.isin(tick_keys)).sum())


def fetch_tick_table(
    rest: RestClient, ticker: str, day: date, within: Sequence[TimeSpan] | None = None
) -> TickTable:
    """Fetch the ticks of a New York date, or only those ``within``; raises as ``fetch_ticks``."""
    tables = [TICK_SCHEMA.empty_table()]
    for page in fetch_ticks(rest, ticker, day):
        table = pa.table([page.t, page.p, page.v, page.c], schema=TICK_SCHEMA)
        if within is not None:
            table = table.filter(pa.array(filter_within(table, within)))
        tables.append(table)
    return pa.concat_tables(tables)


def filter_within(table: TickTable, spans: Sequence[TimeSpan]) -> npt.NDArray[np.bool_]:
    """Return a bool for each row: it happened within one of ``spans`` (epoch us)."""
    times = table["ts_event"].to_numpy() * US_PER_MS
    nowhere = np.zeros(len(times), bool)
    return reduce(or_, ((times >= start) & (times < end) for start, end in spans), nowhere)


def published_ticks(layout: Layout, ticker: str, spans: Sequence[TimeSpan]) -> TickTable:
    """Read the published trades of all sessions that happened within ``spans`` (epoch us).

    Raises:
        StoreError: a file is damaged.
    """
    begin, end = min(start for start, _ in spans), max(end for _, end in spans)
    query = TradeQuery.of(ticker, utc_datetime(begin * NS_PER_US), utc_datetime(end * NS_PER_US))
    trades = read_query(FolderSource(layout), query, TICK_SCHEMA.names).cast(TICK_SCHEMA)
    return trades.filter(pa.array(filter_within(trades, spans)))
