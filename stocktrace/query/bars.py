"""Bars: the trades of each minute (or any interval), and whether we listened to all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from stocktrace.errors import UsageError
from stocktrace.query.bar_grid import BarGrid, BarHours, EpochMs, make_grid
from stocktrace.query.coverage import gap_seconds, running_since
from stocktrace.query.criteria import Day, Moment, TradeQuery
from stocktrace.query.sale_conditions import bar_eligibility
from stocktrace.query.trades import Backend, Duplicates, convert_to_backend, read_query
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, encode_ticker
from stocktrace.store.partition import WindowRowsReader, list_window_rows, retry_on_compaction
from stocktrace.store.segments import read_open_segment
from stocktrace.store.source import DataSource, open_source
from stocktrace.units import MS_PER_SECOND, US_PER_MS, epoch_ms

#: The columns of a bar; the prices and ``vwap`` are missing if no trade of the bar makes them.
BARS = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("open", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("trade_count", pa.int64(), nullable=False),
        pa.field("vwap", pa.float64()),
        pa.field("gap_seconds", pa.float64()),
    ]
)
_BARS_BY_RECEIPT = BARS.remove(BARS.get_field_index("gap_seconds"))
#: The columns of the bars of one ticker.
Columns = dict[str, npt.NDArray[Any]]
_TRADE_COLUMNS = ["ts_event", "price", "volume", "conditions"]


def read_bars(  # noqa: PLR0913 - keyword arguments with defaults, all of one question
    tickers: str | Sequence[str],
    every: str | float | timedelta = "1m",
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    date: Day | None = None,
    session: BarHours = None,
    empty: Literal["drop", "keep"] = "drop",
    duplicates: Literal["keep", "drop"] = "keep",
    backend: Backend = "pandas",
    data_dir: str | Path | None = None,
) -> Any:
    """Read the published trades of ``tickers`` as bars, by the time at which they happened.

    For US stocks, trades with some sale conditions count towards volume only, others not at all
    (docs/reading.md). A price update (volume 0, of currencies) counts towards prices only.

    Args:
        tickers: One or more Finnhub symbols.
        every: Length of a bar, at most a day: ``30s``, ``5m``, seconds or a ``timedelta``.
        start: First trade time, inclusive; ISO text or aware ``datetime`` (naive means UTC).
        end: Last trade time, exclusive.
        date: A date instead: UTC; with ``session`` a New York date.
        session: ``None``: all hours; bars begin with the UTC day. ``regular``: from the opening to
            the closing bell of New York; ``extended``: from 4:00 to 20:00 there; bars begin with
            the session. On half days it ends earlier.
        empty: ``drop`` bars without trades, or ``keep`` all between the bounds (without bounds,
            between the first and the last trade of any ticker).
        duplicates: ``drop`` leaves out what the feed sent more than once, as in ``read_trades``.
        backend: What to return: a pandas or polars DataFrame, or a pyarrow Table.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        By ticker and time: ``symbol`` str · ``start`` datetime64[ms, UTC] · ``open``, ``high``,
        ``low``, ``close`` float64 (trades of one millisecond in the order of arrival) · ``volume``
        float64 · ``trade_count`` int64, the trades that count towards volume · ``vwap`` float64,
        turnover divided by volume · ``gap_seconds`` float64, seconds of the bar in which no session
        listened; missing while a session runs that may have listened: it writes its coverage when
        it ends.

    Raises:
        UsageError: An argument is wrong.
        StoreError: A file is damaged.
    """
    if empty not in ("drop", "keep"):
        raise UsageError(f"empty must be 'drop' or 'keep', not {empty!r}.")
    if duplicates not in ("keep", "drop"):
        raise UsageError(f"For bars, duplicates must be 'keep' or 'drop', not {duplicates!r}.")
    source, query = open_source(data_dir), TradeQuery.of(tickers, start, end, date)
    grid = make_grid(source, query, every, session)
    bars = {ticker: _read_bars(source, query, ticker, grid, duplicates) for ticker in query.tickers}
    if empty == "keep":
        traded = np.concatenate([columns["start"] for columns in bars.values()])
        all_starts = pd.Index(_all_starts(query, grid, traded), name="start")
        for ticker, columns in bars.items():
            frame = pd.DataFrame(columns).set_index("start").reindex(all_starts)
            filled = frame.fillna({"volume": 0.0, "trade_count": 0}).reset_index()
            bars[ticker] = {name: filled[name].to_numpy() for name in columns}
    unknown = running_since(source)
    tables = []
    for ticker, columns in bars.items():
        starts = columns["start"]
        gaps = gap_seconds(source, ticker, starts, grid.ends(starts), unknown)
        tables.append(_make_table(ticker, {**columns, "gap_seconds": gaps}, BARS))
    return convert_to_backend(pa.concat_tables(tables), backend)


def _read_bars(
    source: DataSource, query: TradeQuery, ticker: str, grid: BarGrid, duplicates: Duplicates
) -> Columns:
    """Read the bars that have trades."""
    bounds = grid.bounds(query)
    if bounds is None:
        trades = TRADE_SCHEMA.empty_table()
    else:
        trades = read_query(source, TradeQuery((ticker,), *bounds), _TRADE_COLUMNS, duplicates)
    return _make_bars(ticker, trades, trades["ts_event"].to_numpy().astype(np.int64), grid)


def read_session_bars(
    layout: Layout, session: str, ticker: str, every_s: int, begin: datetime, end: datetime
) -> pa.Table:
    """Read the trades that ``session`` recorded of ``ticker`` as bars, by receive time.

    By receive time, because the session's gaps are: the trades of a replay may have happened at any
    time. Bars have ``every_s`` seconds and cover the UTC days from ``begin`` to ``end``. The trades
    come from CSV, Parquet or compacted files; ``ConversionError`` if one is damaged.

    Returns:
        The columns of ``read_bars`` without ``gap_seconds``.
    """
    days = [begin.date() + timedelta(n) for n in range((end.date() - begin.date()).days + 1)]
    dates = [day.isoformat() for day in days]
    batches = retry_on_compaction(lambda: list(_read_batches(layout, session, ticker, dates)))
    trades = pa.Table.from_batches(batches, TRADE_SCHEMA)
    times = trades["ts_recv"].to_numpy().astype(np.int64) // US_PER_MS
    bars = _make_bars(ticker, trades, times, BarGrid.of(every_s * MS_PER_SECOND, days))
    return _make_table(ticker, bars, _BARS_BY_RECEIPT)


def _read_batches(
    layout: Layout, session: str, ticker: str, dates: list[str]
) -> Iterator[pa.RecordBatch]:
    # Read CSV first: if it is published in the meantime, its window is found in Parquet.
    unpublished = {
        WindowId.parse(path): list(read_open_segment(path))
        for path in layout.root.glob(f"csv/{encode_ticker(ticker)}/{session}-*.csv*")
    }
    with WindowRowsReader() as reader:
        for date in dates:
            for rows in list_window_rows(layout.partition(ticker, date), session):
                unpublished.pop(rows.part, None)
                yield from reader.rows(rows)
    for window in sorted(unpublished, key=lambda each: each.number):
        yield from unpublished[window]


def _make_bars(ticker: str, trades: pa.Table, times: EpochMs, grid: BarGrid) -> Columns:
    """Return the bars with trades: the columns from ``start`` (epoch ms) to ``vwap``."""
    starts, in_grid = grid.starts(times)
    makes_price, makes_volume = bar_eligibility(ticker, trades["conditions"])
    counts = in_grid & (makes_price | makes_volume)
    # A stable sort leaves trades of one millisecond in the order of arrival.
    order = np.flatnonzero(counts)[np.argsort(times[counts], kind="stable")]
    starts, firsts = np.unique(starts[order], return_index=True)
    price, makes_price = trades["price"].to_numpy()[order], makes_price[order]
    volumes = np.where(makes_volume[order], trades["volume"].to_numpy()[order], 0.0)
    total = np.add.reduceat(volumes, firsts)
    turnover = np.add.reduceat(volumes * price, firsts)
    prices, at = np.where(makes_price, price, np.nan), np.arange(len(price))
    high = np.fmax.reduceat(prices, firsts)
    first = np.minimum.reduceat(np.where(makes_price, at, len(at) - 1), firsts)
    last = np.maximum.reduceat(np.where(makes_price, at, 0), firsts)
    without_price = np.isnan(high)  # then the first and the last are trades of other bars
    return {
        "start": starts,
        "open": np.where(without_price, np.nan, prices[first]),
        "high": high,
        "low": np.fmin.reduceat(prices, firsts),
        "close": np.where(without_price, np.nan, prices[last]),
        "volume": total,
        "trade_count": np.add.reduceat((volumes > 0).astype(np.int64), firsts),
        "vwap": np.divide(turnover, total, out=np.full(len(total), np.nan), where=total > 0),
    }


def _make_table(ticker: str, bars: Columns, schema: pa.Schema) -> pa.Table:
    starts = bars["start"].view("datetime64[ms]")
    columns = {**bars, "symbol": np.full(len(starts), ticker, object), "start": starts}
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _all_starts(query: TradeQuery, grid: BarGrid, traded: EpochMs) -> EpochMs:
    """Return where bars begin within the bounds, or from the first bar with trades to the last."""
    bounds = grid.bounds(query)
    if bounds is None:  # the query has no day or no session
        return traded
    first, last = map(epoch_ms, bounds)
    if query.date is None and query.begin is None:
        first = int(traded.min()) if len(traded) else last
    if query.date is None and query.end is None:
        last = int(traded.max()) + 1 if len(traded) else first
    return grid.between(first, last)
