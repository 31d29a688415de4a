"""Reading what was published. Any Hive-aware reader can; this one opens only the files it needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stocktrace.errors import StoreError, UsageError
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout, decode_ticker, encode_ticker
from stocktrace.store.parquet import SCHEMA, UNREADABLE
from stocktrace.trade import COLUMNS, parse_tickers

Backend = Literal["pandas", "pyarrow", "polars"]
Moment = str | datetime

_FILES = pa.schema([pa.field("symbol", pa.string()), *SCHEMA])


def read_trades(  # noqa: PLR0913 - keyword arguments with defaults, all of one question
    tickers: str | Sequence[str],
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    date: str | date | None = None,
    by: Literal["ts_event", "ts_recv"] = "ts_event",
    columns: Sequence[str] | None = None,
    backend: Backend = "pandas",
    data_dir: str | Path | None = None,
) -> Any:
    """The published trades of ``tickers``, in the order of arrival within each ticker.

    Args:
        tickers: One or more Finnhub symbols.
        start: First time, inclusive; ISO text or aware ``datetime`` (naive means UTC).
        end: Last time, exclusive.
        date: A UTC date of receipt instead; whole partitions, nothing else is opened.
        by: Which time ``start`` and ``end`` are about: the exchange's, or that of receipt.
        columns: Some of ``symbol, ts_event, ts_recv, price, volume, conditions``; default all.
        backend: What to give: a pandas or polars DataFrame, or a pyarrow Table.
        data_dir: The data folder; default as in the settings.

    Returns:
        ``symbol`` str · ``ts_event`` datetime64[ms, UTC] · ``ts_recv`` datetime64[us, UTC] ·
        ``price``, ``volume`` float64 · ``conditions`` str.

    Raises:
        UsageError: an argument is wrong.
        StoreError: a file is damaged.
    """
    wanted = parse_tickers((tickers,) if isinstance(tickers, str) else tuple(tickers))
    names = list(columns) if columns is not None else list(COLUMNS)
    if unknown := sorted(set(names) - set(COLUMNS)):
        raise UsageError(f"There is no column {', '.join(unknown)}: choose from {COLUMNS}.")
    if date is not None and (start is not None or end is not None):
        raise UsageError("Give date, or start and end, not both.")
    layout = Layout(Path(data_dir) if data_dir is not None else Settings.load().data_dir)
    begin, stop = _moment(start), _moment(end)
    dates = _dates(layout, date, begin, stop)
    tables = [
        _read(layout, ticker, day, names, _between(by, begin, stop))
        for ticker in wanted
        for day in dates
    ]
    table = pa.concat_tables(tables) if tables else _FILES.empty_table().select(names)
    return _as(table, backend)


def tickers_of(layout: Layout) -> list[str]:
    """All tickers that something is published of."""
    folders = layout.dataset.glob("date=*/symbol=*")
    names = {folder.name.removeprefix("symbol=") for folder in folders}
    return sorted(decode_ticker(name) for name in names - {"~"})


def _dates(
    layout: Layout, day: str | date | None, begin: datetime | None, stop: datetime | None
) -> list[str]:
    """The partitions that can hold what is asked for.

    A trade is received after it happened, and over a day later only by a fault: one more date.
    """
    have = sorted(path.name.removeprefix("date=") for path in layout.dataset.glob("date=*"))
    if day is not None:
        try:
            wanted = day.isoformat() if isinstance(day, date) else date.fromisoformat(day)
        except ValueError:
            raise UsageError(f"{day!r} is no date: write it like 2026-11-23.") from None
        return [name for name in have if name == str(wanted)]
    first = "" if begin is None else begin.date().isoformat()
    last = "9" if stop is None else (stop.date() + timedelta(days=1)).isoformat()
    return [name for name in have if first <= name <= last]


def _moment(when: Moment | None) -> datetime | None:
    if when is None:
        return None
    try:
        moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    except ValueError:
        raise UsageError(f"{when!r} is no time: write it like 2026-11-23T14:30Z.") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _between(by: str, begin: datetime | None, stop: datetime | None) -> pc.Expression | None:
    time, unit = pc.field(by), SCHEMA.field(by).type
    bounds = []
    if begin is not None:
        bounds.append(time >= _up_to(begin, unit))
    if stop is not None:
        bounds.append(time < _up_to(stop, unit))
    if not bounds:
        return None
    return bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]


def _up_to(moment: datetime, unit: pa.TimestampType) -> pa.Scalar:
    """The first time of ``unit`` that is not before ``moment``: a bound of either kind."""
    scalar = pa.scalar(moment, pa.timestamp("us", "UTC"))
    return pc.ceil_temporal(scalar, unit="millisecond").cast(unit) if unit.unit == "ms" else scalar


def _read(
    layout: Layout, ticker: str, day: str, names: list[str], rows: pc.Expression | None
) -> pa.Table:
    folder = layout.dataset / f"date={day}" / f"symbol={encode_ticker(ticker)}"
    # Names begin with the session's start and the window's: sorted is the order of arrival.
    paths = [str(path) for path in sorted(folder.glob("*.parquet"))]
    if not paths:
        return _FILES.empty_table().select(names)
    options = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    files = ds.dataset(paths, schema=SCHEMA, format=options)
    try:
        table = files.to_table(columns=[n for n in names if n != "symbol"], filter=rows)
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        raise StoreError(
            f"A file of {ticker} is damaged, `stocktrace verify` tells more: {text}"
        ) from error
    return _with_symbol(table, ticker, names)


def _with_symbol(table: pa.Table, ticker: str, names: list[str]) -> pa.Table:
    if "symbol" not in names:
        return table
    symbol = pa.repeat(pa.scalar(ticker, pa.string()), table.num_rows)
    return table.append_column(_FILES.field("symbol"), symbol).select(names)


def _as(table: pa.Table, backend: Backend) -> Any:
    if backend == "pyarrow":
        return table
    if backend == "polars":
        import polars as pl  # an optional way out: only who asks for it needs it

        return pl.from_arrow(table)
    if backend == "pandas":
        frame: pd.DataFrame = table.to_pandas()
        return frame
    raise UsageError(f"There is no backend {backend!r}: pandas, pyarrow or polars.")
