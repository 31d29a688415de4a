"""Bars: what the trades of each minute (or any interval) came to, and whether we listened to it."""

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

#: The columns of a bar; the prices and ``vwap`` are missing where no trade made them.
BARS = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("open", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("trades", pa.int64(), nullable=False),
        pa.field("vwap", pa.float64()),
        pa.field("gap", pa.float64()),
    ]
)
Floats = npt.NDArray[np.float64]
# The columns between ``start`` and ``gap``, of no bars.
_NONE = {
    name: np.empty(0, np.int64 if name == "trades" else np.float64) for name in BARS.names[2:-1]
}


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
    """The published trades of ``tickers`` as bars, by the time at which they happened.

    Of US stocks, some sale conditions make volume and no price, others neither (docs/reading.md).
    A price update (volume 0, of currencies) makes prices and is no trade.

    Args:
        tickers: One or more Finnhub symbols.
        every: Length of a bar, at most a day: ``30s``, ``5m``, seconds or a ``timedelta``.
        start: First trade time, inclusive; ISO text or aware ``datetime`` (naive means UTC).
        end: Last trade time, exclusive.
        date: A date instead: UTC; with ``session`` of New York.
        session: ``None``: all hours, bars begin with the UTC day. ``regular``: from the opening to
            the closing bell of New York, ``extended``: from 4:00 to 20:00 there, bars begin with
            the session. Half days end when they do.
        empty: ``drop`` bars without trades, or ``keep`` all between the bounds (else between the
            first and last trade of any ticker).
        duplicates: ``drop`` leaves out what the feed sent more than once, as in ``read_trades``.
        backend: What to give: a pandas or polars DataFrame, or a pyarrow Table.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        By ticker and time: ``symbol`` str · ``start`` datetime64[ms, UTC] · ``open``, ``high``,
        ``low``, ``close`` float64 (trades of one millisecond in the order of arrival) · ``volume``
        float64 · ``trades`` int64, those of the volume · ``vwap`` float64, turnover by volume ·
        ``gap`` float64, seconds of the bar in which no session listened; missing for as long as a
        session is alive that may have, for it writes its coverage when it ends.

    Raises:
        UsageError: an argument is wrong.
        StoreError: a file is damaged.
    """
    if empty not in ("drop", "keep"):
        raise UsageError(f"Empty bars are dropped (drop) or kept (keep), not {empty!r}.")
    if duplicates not in ("keep", "drop"):
        raise UsageError(f"Of copies, bars are made (keep) or not (drop), not {duplicates!r}.")
    shelf, query = open_source(data_dir), TradeQuery.of(tickers, start, end, date)
    grid = make_grid(shelf, query, every, session)
    found = {ticker: _bars(shelf, query, ticker, grid, duplicates) for ticker in query.tickers}
    if empty == "keep":
        wanted = _all_starts(query, grid, found)
        found = {ticker: bars.among(wanted) for ticker, bars in found.items()}
    unknown = running_since(shelf)
    tables = [_table(shelf, ticker, bars, grid, unknown) for ticker, bars in found.items()]
    return convert_to_backend(pa.concat_tables(tables), backend)


@dataclass(frozen=True, slots=True)
class _Bars:
    """Bars of one ticker as columns; ``values`` has those between ``start`` and ``gap``."""

    starts: EpochMs
    values: dict[str, npt.NDArray[Any]]

    def among(self, starts: EpochMs) -> _Bars:
        """The same, with an empty bar for each of ``starts`` that has none."""
        at = np.searchsorted(starts, self.starts)
        values = {}
        for name, column in self.values.items():
            nothing = 0 if name in ("volume", "trades") else np.nan
            values[name] = np.full(len(starts), nothing, column.dtype)
            values[name][at] = column
        return _Bars(starts, values)


def _bars(
    shelf: DataSource, query: TradeQuery, ticker: str, grid: BarGrid, duplicates: Duplicates
) -> _Bars:
    """The bars that trades were in."""
    begin, end = grid.begin(query.begin), grid.end(query.end)
    if begin is None or end is None:
        return _Bars(np.empty(0, np.int64), _NONE)
    within = TradeQuery((ticker,), begin, end)
    trades = read_query(shelf, within, ["ts_event", "price", "volume", "conditions"], duplicates)
    return _made_of(ticker, trades, trades["ts_event"].to_numpy().astype(np.int64), grid)


def bars_by_receipt(ticker: str, trades: pa.Table, grid: BarGrid) -> pa.Table:
    """``trades`` of one ticker as bars by the time of receipt: ``BARS`` without ``gap``."""
    times = trades["ts_recv"].to_numpy().astype(np.int64) // US_PER_MS
    bars = _made_of(ticker, trades, times, grid)
    columns = {
        "symbol": np.full(len(bars.starts), ticker, object),
        "start": bars.starts.view("datetime64[ms]"),
        **bars.values,
    }
    fields = [field for field in BARS if field.name != "gap"]
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in fields]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _made_of(ticker: str, trades: pa.Table, times: EpochMs, grid: BarGrid) -> _Bars:
    starts, kept = grid.starts(times)
    prices, volumes = bar_eligibility(ticker, trades["conditions"])
    kept &= prices | volumes
    # A stable sort leaves trades of one millisecond in the order of arrival.
    order = np.flatnonzero(kept)[np.argsort(times[kept], kind="stable")]
    return _aggregate(
        starts[order],
        trades["price"].to_numpy()[order],
        trades["volume"].to_numpy()[order],
        prices[order],
        volumes[order],
    )


def _aggregate(
    starts: EpochMs,
    price: Floats,
    volume: Floats,
    prices: npt.NDArray[np.bool_],
    volumes: npt.NDArray[np.bool_],
) -> _Bars:
    """Trades in order of time as bars; ``prices`` and ``volumes`` say which make such."""
    if not len(starts):
        return _Bars(starts, _NONE)
    firsts = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    at, some = np.arange(len(starts)), np.logical_or.reduceat(prices, firsts)
    first = np.minimum.reduceat(np.where(prices, at, len(at) - 1), firsts)
    last = np.maximum.reduceat(np.where(prices, at, 0), firsts)
    traded = np.where(volumes, volume, 0.0)
    total = np.add.reduceat(traded, firsts)
    turnover = np.add.reduceat(traded * price, firsts)
    high = np.maximum.reduceat(np.where(prices, price, -np.inf), firsts)
    low = np.minimum.reduceat(np.where(prices, price, np.inf), firsts)
    return _Bars(
        starts[firsts],
        {
            "open": np.where(some, price[first], np.nan),
            "high": np.where(some, high, np.nan),
            "low": np.where(some, low, np.nan),
            "close": np.where(some, price[last], np.nan),
            "volume": total,
            "trades": np.add.reduceat((traded > 0).astype(np.int64), firsts),
            "vwap": np.divide(turnover, total, out=np.full(len(total), np.nan), where=total > 0),
        },
    )


def _table(shelf: DataSource, ticker: str, bars: _Bars, grid: BarGrid, unknown: int) -> pa.Table:
    starts, ends = bars.starts, grid.ends(bars.starts)
    columns = {
        "symbol": np.full(len(starts), ticker, object),
        "start": starts.view("datetime64[ms]"),
        **bars.values,
        "gap": ListenedTime.of(shelf, ticker, starts, ends, unknown).gap_ms(starts, ends),
    }
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in BARS]
    return pa.Table.from_arrays(arrays, schema=BARS)


def _all_starts(query: TradeQuery, grid: BarGrid, found: dict[str, _Bars]) -> EpochMs:
    """Where all bars begin: within the bounds, or from the first bar with trades to the last."""
    have = np.concatenate([bars.starts for bars in found.values()])
    begin, end = grid.begin(query.begin), grid.end(query.end)
    if begin is None or end is None:  # no day, or no session at all
        return have
    first, last = epoch_ms(begin), epoch_ms(end)
    if query.date is None and query.begin is None:
        first = int(have.min()) if len(have) else last
    if query.date is None and query.end is None:
        last = int(have.max()) + 1 if len(have) else first
    return grid.between(first, last)
