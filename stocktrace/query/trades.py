"""Reading what was published. Any Hive-aware reader can; this one opens only the files it needs."""

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
from stocktrace.query.criteria import Day, Moment, Time, TradeQuery
from stocktrace.query.duplicates import IS_DUPLICATE, mark_duplicates
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.footer import UNREADABLE
from stocktrace.store.partition import retry_on_compaction
from stocktrace.store.source import DataSource, open_source
from stocktrace.trade import COLUMNS

Backend = Literal["pandas", "pyarrow", "polars"]
#: What becomes of copies (``copies``): they stay, get a mark, or are left out.
Duplicates = Literal["keep", "mark", "drop"]

_FILES = pa.schema([pa.field("symbol", pa.string()), *TRADE_SCHEMA])
_DATASET = pa.schema([*_FILES, pa.field("date", pa.string())])
# Without being asked, pyarrow reads damaged pages as data.
_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def scan(
    tickers: str | Sequence[str],
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    date: Day | None = None,
    by: Time = "ts_event",
    data_dir: str | Path | None = None,
) -> ds.Dataset:
    """The published trades of ``tickers`` as a dataset that is not read yet.

    It is made of the files that can hold them, and of nothing else. Whoever reads it (DuckDB,
    polars, pandas, pyarrow) takes the columns and rows that it needs: files of other tickers and
    dates are not opened, row groups of other times not read.

    Args:
        tickers: One or more Finnhub symbols.
        start: First time, inclusive; ISO text or aware ``datetime`` (naive means UTC).
        end: Last time, exclusive.
        date: A UTC date of receipt instead; whole partitions, nothing else is opened.
        by: Which time ``start`` and ``end`` are about: the exchange's, or that of receipt.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        Columns ``symbol`` str · ``ts_event`` timestamp[ms, UTC] · ``ts_recv`` timestamp[us, UTC] ·
        ``price``, ``volume`` double · ``conditions`` str · ``date`` str, that of receipt; by ticker
        and date, then in the order of arrival. Reading raises ``FileNotFoundError`` if a day was
        compacted meanwhile: scan again.

    Raises:
        UsageError: an argument is wrong.
    """
    query, shelf = TradeQuery.of(tickers, start, end, date, by), open_source(data_dir)
    return _dataset(shelf, query.days(shelf.dates()), query)


def read_trades(  # noqa: PLR0913 - keyword arguments with defaults, all of one question
    tickers: str | Sequence[str],
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    date: Day | None = None,
    by: Time = "ts_event",
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "keep",
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
        duplicates: What becomes of trades that the feed sent more than once (docs/reading.md): they
            stay, are marked in a further column ``copy``, or are left out.
        backend: What to give: a pandas or polars DataFrame, or a pyarrow Table.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        ``symbol`` str · ``ts_event`` datetime64[ms, UTC] · ``ts_recv`` datetime64[us, UTC] ·
        ``price``, ``volume`` float64 · ``conditions`` str · with ``copies="mark"`` ``copy`` bool.

    Raises:
        UsageError: an argument is wrong.
        StoreError: a file is damaged.
    """
    names = list(columns) if columns is not None else list(COLUMNS)
    if unknown := sorted(set(names) - set(COLUMNS)):
        raise UsageError(f"There is no column {', '.join(unknown)}: choose from {COLUMNS}.")
    query = TradeQuery.of(tickers, start, end, date, by)
    return convert_to_backend(read_query(open_source(data_dir), query, names, duplicates), backend)


def read_query(
    shelf: DataSource, query: TradeQuery, names: Sequence[str], duplicates: Duplicates = "keep"
) -> pa.Table:
    """The columns ``names`` of what a query asks for; with copies marked, ``copy`` after them.

    Raises:
        UsageError: there is no such thing to do with copies.
        StoreError: a file is damaged.
    """
    if duplicates not in get_args(Duplicates):
        raise UsageError(
            f"Copies can be kept, marked or dropped (keep, mark, drop), not {duplicates!r}."
        )
    days, columns = query.days(shelf.dates()), list(names)

    def table(some: Sequence[tuple[str, str]]) -> pa.Table:
        return _dataset(shelf, some, query).to_table(columns)

    try:
        if duplicates != "keep":
            return _with_duplicates(shelf, query, days, columns, duplicates)
        try:
            return table(days)
        except FileNotFoundError:  # a day was compacted meanwhile: read each for itself
            return pa.concat_tables(retry_on_compaction(partial(table, [day])) for day in days)
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        raise StoreError(
            f"A file of {', '.join(query.tickers)} is damaged, `stocktrace verify` tells more: "
            f"{text}"
        ) from error


def _with_duplicates(
    shelf: DataSource,
    query: TradeQuery,
    days: Sequence[tuple[str, str]],
    columns: list[str],
    duplicates: Duplicates,
) -> pa.Table:
    fields = [
        *(_FILES.field(name) for name in columns),
        *([IS_DUPLICATE] if duplicates == "mark" else []),
    ]
    wanted = pa.schema(fields)
    tables = [wanted.empty_table()]
    for ticker, day in days:
        trades = mark_duplicates(shelf, ticker, day)
        if duplicates == "drop":
            trades = trades.filter(~pc.field(IS_DUPLICATE.name))
        if query.rows is not None:
            trades = trades.filter(query.rows)
        symbol = pa.repeat(pa.scalar(ticker), len(trades))
        tables.append(trades.append_column(_FILES.field("symbol"), symbol).select(wanted.names))
    return pa.concat_tables(tables)


def _dataset(shelf: DataSource, days: Sequence[tuple[str, str]], query: TradeQuery) -> ds.Dataset:
    """The files of ``days``, each with what its path tells, filtered by the query's times."""
    fragments = [
        _FORMAT.make_fragment(
            path, shelf.files, (ds.field("symbol") == ticker) & (ds.field("date") == day)
        )
        for ticker, day in days
        for path in shelf.trade_files(ticker, day)
    ]
    dataset = ds.FileSystemDataset(fragments, _DATASET, _FORMAT, shelf.files)
    return dataset if query.rows is None else dataset.filter(query.rows)


def convert_to_backend(table: pa.Table, backend: Backend) -> Any:
    """``table`` as a pandas or polars DataFrame, or as it is.

    Raises:
        UsageError: there is no such backend.
    """
    if backend == "pyarrow":
        return table
    if backend == "polars":
        import polars as pl  # an optional way out: only who asks for it needs it

        return pl.from_arrow(table)
    if backend == "pandas":
        frame: pd.DataFrame = table.to_pandas()
        return frame
    raise UsageError(f"There is no backend {backend!r}: pandas, pyarrow or polars.")
