"""Bars: the trades of each minute (or any interval), and whether we listened to all of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.calendar import Market, market_of
from stocktrace.errors import UsageError
from stocktrace.query.bar_grid import BarGrid, BarHours, EpochMs, make_grid
from stocktrace.query.coverage import gap_seconds
from stocktrace.query.criteria import Day, Moment, TradeQuery
from stocktrace.query.sale_conditions import bar_eligibility
from stocktrace.query.trades import Backend, Duplicates, convert_to_backend, read_query
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, encode_ticker
from stocktrace.store.segments import read_open_segment
from stocktrace.store.source import DataSource, FolderSource, open_source, read_rows
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
#: Columns of bars.
Columns = dict[str, npt.NDArray[Any]]
_TRADE_COLUMNS = ["symbol", "ts_event", "price", "volume", "conditions"]


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
    bars = _read_bars(source, query, grid, duplicates)
    if empty == "keep":
        bars = _add_empty_bars(bars, _all_starts(query, grid, bars["start"]), len(query.tickers))
    starts = bars["start"]
    gaps = gap_seconds(source, query.tickers, bars["ticker"], starts, grid.ends(starts))
    return convert_to_backend(
        _make_table(query.tickers, {**bars, "gap_seconds": gaps}, BARS), backend
    )


def _read_bars(
    source: DataSource, query: TradeQuery, grid: BarGrid, duplicates: Duplicates
) -> Columns:
    """Read the bars that have trades, of all tickers in one pass."""
    bounds = grid.bounds(query)
    if bounds is None:
        trades = TRADE_SCHEMA.empty_table()
    else:
        trades = read_query(source, TradeQuery(query.tickers, *bounds), _TRADE_COLUMNS, duplicates)
    return _make_bars(query.tickers, trades, trades["ts_event"].cast("int64").to_numpy(), grid)


def _add_empty_bars(bars: Columns, starts: EpochMs, tickers: int) -> Columns:
    """Return bars at all ``starts``, a superset of those of ``bars``, of so many ``tickers``."""
    at = bars["ticker"] * len(starts) + np.searchsorted(starts, bars["start"])
    filled = {
        "ticker": np.repeat(np.arange(tickers), len(starts)),
        "start": np.tile(starts, tickers),
    }
    for name in bars.keys() - filled.keys():
        empty = 0 if name in ("volume", "trade_count") else np.nan
        filled[name] = np.full(tickers * len(starts), empty, bars[name].dtype)
        filled[name][at] = bars[name]
    return filled


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
    # Read CSV first: if it is published in the meantime, its window is found in Parquet.
    unpublished = {
        WindowId.parse(path).number: read_open_segment(path)
        for path in layout.root.glob(f"csv/{encode_ticker(ticker)}/{session}-*.csv*")
    }
    columns = [*TRADE_SCHEMA.names, "window_number"]
    published = read_rows(FolderSource(layout), dates, columns, tickers=[ticker], session=session)
    known = set(published["window_number"].unique().to_pylist())
    tables = [unpublished[number] for number in sorted(unpublished.keys() - known)]
    trades = pa.concat_tables([published.select(TRADE_SCHEMA.names), *tables])
    times = trades["ts_recv"].cast("int64").to_numpy() // US_PER_MS
    bars = _make_bars([ticker], trades, times, BarGrid.of(every_s * MS_PER_SECOND, days))
    return _make_table([ticker], bars, _BARS_BY_RECEIPT)


def _make_bars(tickers: Sequence[str], trades: pa.Table, times: EpochMs, grid: BarGrid) -> Columns:
    """Return the bars with trades, by ticker and time.

    Columns: ``ticker`` (a place in ``tickers``), then those from ``start`` (epoch ms) to ``vwap``.
    """
    symbols = trades["symbol"].combine_chunks().dictionary_encode()
    places = {ticker: at for at, ticker in enumerate(tickers)}
    codes = np.array([places[name] for name in symbols.dictionary.to_pylist()], np.int64)
    ticker = codes[symbols.indices.to_numpy()]
    starts, in_grid = grid.starts(times)
    makes_price, makes_volume = bar_eligibility(trades["conditions"])
    # The codes of other markets are unknown: there every trade counts.
    is_elsewhere = np.array([market_of(name) is not Market.US for name in tickers])[ticker]
    makes_price, makes_volume = makes_price | is_elsewhere, makes_volume | is_elsewhere
    rows = np.flatnonzero(in_grid & (makes_price | makes_volume))
    # A stable sort leaves trades of one millisecond in the order of arrival.
    order = rows[np.lexsort((times[rows], ticker[rows]))]
    ticker, starts = ticker[order], starts[order]
    firsts = np.flatnonzero((np.diff(ticker, prepend=-1) != 0) | (np.diff(starts, prepend=-1) != 0))
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
        "ticker": ticker[firsts],
        "start": starts[firsts],
        "open": np.where(without_price, np.nan, prices[first]),
        "high": high,
        "low": np.fmin.reduceat(prices, firsts),
        "close": np.where(without_price, np.nan, prices[last]),
        "volume": total,
        "trade_count": np.add.reduceat((volumes > 0).astype(np.int64), firsts),
        "vwap": np.divide(turnover, total, out=np.full(len(total), np.nan), where=total > 0),
    }


def _make_table(tickers: Sequence[str], bars: Columns, schema: pa.Schema) -> pa.Table:
    symbols = pa.array(tickers, pa.string()).take(pa.array(bars["ticker"]))
    columns = {**bars, "symbol": symbols, "start": bars["start"].view("datetime64[ms]")}
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
