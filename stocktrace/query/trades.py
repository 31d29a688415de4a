"""Read published trades. Any Hive-aware reader can; this one opens only the files it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stocktrace.errors import ConversionError, StoreError, UsageError
from stocktrace.query.criteria import Day, Moment, TimeColumn, TradeQuery
from stocktrace.query.duplicates import IS_DUPLICATE, mark_duplicates
from stocktrace.store.arrow_schema import FILE_SCHEMA, TRADE_SCHEMA
from stocktrace.store.source import DataSource, open_source, read_last_rows, read_rows
from stocktrace.trade import COLUMNS

Backend = Literal["pandas", "pyarrow", "polars"]
#: Keep duplicates (``query.duplicates``), mark them in a column, or drop them.
Duplicates = Literal["keep", "mark", "drop"]

_DATASET = FILE_SCHEMA.append(pa.field("date", pa.string()))
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
    pandas, pyarrow) takes the columns and rows that it needs: files of other dates are not opened,
    row groups of other tickers and times are not read. Arguments as for ``read_trades``.

    Returns:
        Columns ``symbol`` str · ``ts_event`` timestamp[ms, UTC] · ``ts_recv`` timestamp[us, UTC] ·
        ``price``, ``volume`` double · ``conditions`` str · ``session`` str and ``window_number``
        int, which recorded it · ``date`` str, that of receipt; by date, and by window until the
        date is compacted, then by ticker, then in the order of arrival. Reading raises
        ``FileNotFoundError`` if a date was compacted after the scan: scan again.

    Raises:
        UsageError: An argument is wrong.
    """
    query, source = TradeQuery.of(tickers, start, end, date, by), open_source(data_dir)
    fragments = [
        _FORMAT.make_fragment(
            file.path, source.files, ds.field("date") == date, file_size=file.size
        )
        for date in query.dates(source)
        for file in source.trade_files(date)
    ]
    return ds.FileSystemDataset(fragments, _DATASET, _FORMAT, source.files).filter(query.rows)


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


def read_last_trades(source: DataSource, query: TradeQuery, count: int) -> pa.Table:
    """Read the last ``count`` trades of a query, in the order of a ``scan``; ``StoreError``.

    The dates, files and row groups before them are not read.
    """
    dates = query.dates(source)
    with _store_errors():
        return read_last_rows(
            source, dates, COLUMNS, count, tickers=query.tickers, bounds=query.bounds
        )


def read_query(
    source: DataSource, query: TradeQuery, names: Sequence[str], duplicates: Duplicates = "keep"
) -> pa.Table:
    """Read columns of the trades of a query; errors as in ``read_trades``."""
    if duplicates not in get_args(Duplicates):
        raise UsageError(f"duplicates must be 'keep', 'mark' or 'drop', not {duplicates!r}.")
    dates, columns = query.dates(source), [*dict.fromkeys(["symbol", *names])]
    with _store_errors():
        if duplicates != "keep":
            return _judge_duplicates(source, query, dates, list(names), duplicates)
        table = read_rows(source, dates, columns, tickers=query.tickers, bounds=query.bounds)
    return _by_ticker(table, query.tickers).select(list(names))


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except ConversionError as error:
        raise StoreError(f"{error} Run `stocktrace verify` to find all damaged files.") from error


def _by_ticker(table: pa.Table, tickers: Sequence[str]) -> pa.Table:
    """Order rows by ticker, in the order of ``tickers``; those of one ticker keep their order."""
    if len(tickers) == 1 or not len(table):
        return table
    symbols = table["symbol"].combine_chunks()
    if [*tickers] == sorted(tickers) and not pc.any(pc.less(symbols[1:], symbols[:-1])).as_py():
        return table  # it comes from one file, which is sorted
    symbols = symbols.dictionary_encode()
    places = {ticker: at for at, ticker in enumerate(tickers)}
    ranks = np.array([places[ticker] for ticker in symbols.dictionary.to_pylist()])
    by_row = ranks[symbols.indices.to_numpy()]
    if (by_row[1:] >= by_row[:-1]).all():
        return table
    return table.take(pa.array(np.argsort(by_row, kind="stable")))


def _judge_duplicates(
    source: DataSource,
    query: TradeQuery,
    dates: Sequence[str],
    columns: list[str],
    duplicates: Duplicates,
) -> pa.Table:
    names = [*columns, IS_DUPLICATE.name] if duplicates == "mark" else columns
    fields = [*TRADE_SCHEMA, IS_DUPLICATE]
    tables = [pa.schema(fields).empty_table()]
    for date in dates:
        trades = mark_duplicates(source, query.tickers, date)
        if duplicates == "drop":
            trades = trades.filter(~pc.field(IS_DUPLICATE.name))
        tables.append(trades.filter(query.rows))
    return _by_ticker(pa.concat_tables(tables), query.tickers).select(names)


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
