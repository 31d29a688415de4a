"""Bars: the trades of each minute (or any interval), and whether we listened to all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.errors import UsageError
from stocktrace.query.bar_grid import BarGrid, BarHours, EpochMs, make_grid
from stocktrace.query.criteria import Day, Moment, TradeQuery
from stocktrace.query.listened_time import ListenedTime, running_since
from stocktrace.query.sale_conditions import bar_eligibility
from stocktrace.query.trades import Backend, Duplicates, convert_to_backend, read_query
from stocktrace.store.source import DataSource, open_source
from stocktrace.units import US_PER_MS, epoch_ms

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
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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
        starts = _all_starts(query, grid, bars)
        bars = {ticker: columns.with_empty_bars(starts) for ticker, columns in bars.items()}
    unknown = running_since(source)
    tables = []
    for ticker, columns in bars.items():
        starts, ends = columns.starts, grid.ends(columns.starts)
        listened = ListenedTime.of(source, ticker, starts, ends, unknown)
        tables.append(columns.table(ticker, BARS, gap_seconds=listened.gap_seconds(starts, ends)))
    return convert_to_backend(pa.concat_tables(tables), backend)


@dataclass(frozen=True, slots=True)
class _TickerBars:
    """Bars of one ticker; ``values`` are the columns between ``start`` and ``gap_seconds``."""

    starts: EpochMs
    values: dict[str, npt.NDArray[Any]]

    @classmethod
    def none(cls) -> _TickerBars:
        """No bars."""
        names = BARS.names[2:-1]
        values = {
            name: np.empty(0, np.int64 if name == "trade_count" else np.float64) for name in names
        }
        return cls(np.empty(0, np.int64), values)

    def with_empty_bars(self, starts: EpochMs) -> _TickerBars:
        """Return bars at all ``starts``, which include those of the bars; new bars are empty."""
        at = np.searchsorted(starts, self.starts)
        values = {}
        for name, column in self.values.items():
            empty = 0 if name in ("volume", "trade_count") else np.nan
            values[name] = np.full(len(starts), empty, column.dtype)
            values[name][at] = column
        return _TickerBars(starts, values)

    def table(self, ticker: str, schema: pa.Schema, **more: Floats) -> pa.Table:
        """Return the bars, and ``more`` columns, as a table of ``schema``."""
        columns = {
            "symbol": np.full(len(self.starts), ticker, object),
            "start": self.starts.view("datetime64[ms]"),
            **self.values,
            **more,
        }
        arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)


def _read_bars(
    source: DataSource, query: TradeQuery, ticker: str, grid: BarGrid, duplicates: Duplicates
) -> _TickerBars:
    """Read the bars that have trades."""
    begin, end = grid.begin(query.begin), grid.end(query.end)
    if begin is None or end is None:
        return _TickerBars.none()
    within = TradeQuery((ticker,), begin, end)
    trades = read_query(source, within, ["ts_event", "price", "volume", "conditions"], duplicates)
    return _make_bars(ticker, trades, trades["ts_event"].to_numpy().astype(np.int64), grid)


def make_bars_by_receipt(ticker: str, trades: pa.Table, grid: BarGrid) -> pa.Table:
    """Return ``trades`` of one ticker as bars by receive time: ``BARS`` without ``gap_seconds``."""
    times = trades["ts_recv"].to_numpy().astype(np.int64) // US_PER_MS
    return _make_bars(ticker, trades, times, grid).table(ticker, _BARS_BY_RECEIPT)


def _make_bars(ticker: str, trades: pa.Table, times: EpochMs, grid: BarGrid) -> _TickerBars:
    starts, in_grid = grid.starts(times)
    makes_price, makes_volume = bar_eligibility(ticker, trades["conditions"])
    counts = in_grid & (makes_price | makes_volume)
    # A stable sort leaves trades of one millisecond in the order of arrival.
    order = np.flatnonzero(counts)[np.argsort(times[counts], kind="stable")]
    return _aggregate(
        starts[order],
        trades["price"].to_numpy()[order],
        trades["volume"].to_numpy()[order],
        makes_price[order],
        makes_volume[order],
    )


def _aggregate(
    starts: EpochMs, price: Floats, volume: Floats, makes_price: Bools, makes_volume: Bools
) -> _TickerBars:
    """Aggregate trades in order of time."""
    if not len(starts):
        return _TickerBars.none()
    firsts = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    prices = np.where(makes_price, price, np.nan)
    volumes = np.where(makes_volume, volume, 0.0)
    total = np.add.reduceat(volumes, firsts)
    turnover = np.add.reduceat(volumes * price, firsts)
    return _TickerBars(
        starts[firsts],
        {
            **aggregate_prices(firsts, prices, prices, prices, prices),
            "volume": total,
            "trade_count": np.add.reduceat((volumes > 0).astype(np.int64), firsts),
            "vwap": np.divide(turnover, total, out=np.full(len(total), np.nan), where=total > 0),
        },
    )


def aggregate_prices(
    firsts: npt.NDArray[np.int64], opens: Floats, highs: Floats, lows: Floats, closes: Floats
) -> dict[str, Floats]:
    """Return open, high, low and close of groups of rows; a group begins at each of ``firsts``.

    A row without a price has nan in all columns; a group without a price gets nan.
    """
    at, has_price = np.arange(len(closes)), ~np.isnan(closes)
    first = np.minimum.reduceat(np.where(has_price, at, len(at) - 1), firsts)
    last = np.maximum.reduceat(np.where(has_price, at, 0), firsts)
    high = np.fmax.reduceat(highs, firsts)
    without_price = np.isnan(high)
    return {
        "open": np.where(without_price, np.nan, opens[first]),
        "high": high,
        "low": np.fmin.reduceat(lows, firsts),
        "close": np.where(without_price, np.nan, closes[last]),
    }


def _all_starts(query: TradeQuery, grid: BarGrid, bars: dict[str, _TickerBars]) -> EpochMs:
    """Return where bars begin within the bounds, or from the first bar with trades to the last."""
    starts = np.concatenate([columns.starts for columns in bars.values()])
    begin, end = grid.begin(query.begin), grid.end(query.end)
    if begin is None or end is None:  # the query has no day or no session
        return starts
    first, last = epoch_ms(begin), epoch_ms(end)
    if query.date is None and query.begin is None:
        first = int(starts.min()) if len(starts) else last
    if query.date is None and query.end is None:
        last = int(starts.max()) + 1 if len(starts) else first
    return grid.between(first, last)
