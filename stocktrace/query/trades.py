"""Read published trades. Any Hive-aware reader can; this one opens only the files it needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stocktrace.errors import StoreError, UsageError
from stocktrace.query.criteria import Day, Moment, TimeColumn, TradeQuery
from stocktrace.query.duplicates import IS_DUPLICATE, mark_duplicates
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.parquet import UNREADABLE
from stocktrace.store.partition import retry_on_compaction
from stocktrace.store.source import DataSource, open_source
from stocktrace.trade import COLUMNS

Backend = Literal["pandas", "pyarrow", "polars"]
#: Keep duplicates (``query.duplicates``), mark them in a column, or drop them.
Duplicates = Literal["keep", "mark", "drop"]

_COLUMNS = pa.schema([pa.field("symbol", pa.string()), *TRADE_SCHEMA])
_DATASET = pa.schema([*_COLUMNS, pa.field("date", pa.string())])
# By default, pyarrow reads damaged pages as data.
_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def scan(
    tickers: str | Sequence[str],
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    date: Day | None = None,
    by: TimeColumn = "ts_event",
    data_dir: str | Path | None = None,
) -> ds.Dataset:
    """Return the published trades of ``tickers`` as a dataset that is not read yet.

    It consists only of the files that can hold them. The library that reads it (DuckDB, polars,
    pandas, pyarrow) takes the columns and rows that it needs: files of other tickers and dates are
    not opened, row groups of other times are not read. Arguments as for ``read_trades``.

    Returns:
        Columns ``symbol`` str · ``ts_event`` timestamp[ms, UTC] · ``ts_recv`` timestamp[us, UTC] ·
        ``price``, ``volume`` double · ``conditions`` str · ``date`` str, that of receipt; by ticker
        and date, then in the order of arrival. Reading raises ``FileNotFoundError`` if a day was
        compacted after the scan: scan again.

    Raises:
        UsageError: An argument is wrong.
    """
    query, source = TradeQuery.of(tickers, start, end, date, by), open_source(data_dir)
    return _dataset(source, query.days(source.dates()), query)


def read_trades(  # noqa: PLR0913 - keyword arguments with defaults, all of one question
    tickers: str | Sequence[str],
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    date: Day | None = None,
    by: TimeColumn = "ts_event",
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "keep",
    backend: Backend = "pandas",
    data_dir: str | Path | None = None,
) -> Any:
    """Read the published trades of ``tickers``, in the order of arrival within each ticker.

    Args:
        tickers: One or more Finnhub symbols.
        start: First time, inclusive; ISO text or aware ``datetime`` (naive means UTC).
        end: Last time, exclusive.
        date: A UTC date of receipt instead.
        by: The time that ``start`` and ``end`` select by: the exchange's, or that of receipt.
        columns: Some of ``symbol, ts_event, ts_recv, price, volume, conditions``; default all.
        duplicates: What to do with trades that the feed sent more than once (docs/reading.md):
            ``keep`` them, ``mark`` them in a further column ``is_duplicate``, or ``drop`` them.
        backend: What to return: a pandas or polars DataFrame, or a pyarrow Table.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        ``symbol`` str · ``ts_event`` datetime64[ms, UTC] · ``ts_recv`` datetime64[us, UTC] ·
        ``price``, ``volume`` float64 · ``conditions`` str · with ``duplicates="mark"``
        ``is_duplicate`` bool.

    Raises:
        UsageError: An argument is wrong.
        StoreError: A file is damaged.
    """
    names = list(columns) if columns is not None else list(COLUMNS)
    if unknown := sorted(set(names) - set(COLUMNS)):
        raise UsageError(f"Unknown column {unknown[0]!r}. Columns: {', '.join(COLUMNS)}.")
    query = TradeQuery.of(tickers, start, end, date, by)
    return convert_to_backend(read_query(open_source(data_dir), query, names, duplicates), backend)


def read_query(
    source: DataSource, query: TradeQuery, names: Sequence[str], duplicates: Duplicates = "keep"
) -> pa.Table:
    """Read columns of the trades of a query; errors as in ``read_trades``."""
    if duplicates not in get_args(Duplicates):
        raise UsageError(f"duplicates must be 'keep', 'mark' or 'drop', not {duplicates!r}.")
    days, columns = query.days(source.dates()), list(names)

    def read(days: Sequence[tuple[str, str]]) -> pa.Table:
        return _dataset(source, days, query).to_table(columns)

    try:
        if duplicates != "keep":
            return _judge_duplicates(source, query, days, columns, duplicates)
        try:
            return read(days)
        except FileNotFoundError:  # a day was compacted while it was read: read day by day
            return pa.concat_tables(retry_on_compaction(partial(read, [day])) for day in days)
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        tickers = ", ".join(query.tickers)
        raise StoreError(
            f"A file of {tickers} is damaged: {text}. Run `stocktrace verify` to find it."
        ) from error


def _judge_duplicates(
    source: DataSource,
    query: TradeQuery,
    days: Sequence[tuple[str, str]],
    columns: list[str],
    duplicates: Duplicates,
) -> pa.Table:
    schema = pa.schema([_COLUMNS.field(name) for name in columns])
    if duplicates == "mark":
        schema = schema.append(IS_DUPLICATE)
    tables = [schema.empty_table()]
    for ticker, day in days:
        trades = mark_duplicates(source, ticker, day)
        if duplicates == "drop":
            trades = trades.filter(~pc.field(IS_DUPLICATE.name))
        if query.rows is not None:
            trades = trades.filter(query.rows)
        symbol = pa.repeat(pa.scalar(ticker), len(trades))
        tables.append(trades.append_column(_COLUMNS.field("symbol"), symbol).select(schema.names))
    return pa.concat_tables(tables)


def _dataset(source: DataSource, days: Sequence[tuple[str, str]], query: TradeQuery) -> ds.Dataset:
    """Return the files of ``days``, with the columns of their paths, filtered by time."""
    fragments = [
        _FORMAT.make_fragment(
            path, source.files, (ds.field("symbol") == ticker) & (ds.field("date") == day)
        )
        for ticker, day in days
        for path in source.trade_files(ticker, day)
    ]
    dataset = ds.FileSystemDataset(fragments, _DATASET, _FORMAT, source.files)
    return dataset if query.rows is None else dataset.filter(query.rows)


def convert_to_backend(table: pa.Table, backend: Backend) -> Any:
    """Return ``table`` as a DataFrame of ``backend``; ``UsageError`` if that is unknown."""
    if backend == "pyarrow":
        return table
    if backend == "polars":
        import polars as pl  # optional

        return pl.from_arrow(table)
    if backend == "pandas":
        frame: pd.DataFrame = table.to_pandas()
        return frame
    raise UsageError(f"backend must be 'pandas', 'pyarrow' or 'polars', not {backend!r}.")
