"""Rows on their way out, batch by batch: memory does not grow with what was asked for."""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stocktrace.errors import StoreError
from stocktrace.store import files
from stocktrace.store.footer import UNREADABLE
from stocktrace.trade import COLUMNS

#: Batches of rows that are read while they are asked for.
RowBatches: TypeAlias = pa.RecordBatchReader

# About 4 MB of trades; conversions cost per batch, and not more per row beyond that.
BATCH_ROWS = 65_536


def rows_of_trades(trades: ds.Dataset) -> RowBatches:
    """The rows of a ``scan``; no more than a few files are read ahead."""
    scanner = trades.scanner(
        list(COLUMNS),
        batch_size=BATCH_ROWS,
        batch_readahead=1,
        fragment_readahead=1,
        use_threads=False,
    )
    return scanner.to_reader()


def rows_of_frame(frame: pd.DataFrame) -> RowBatches:
    """The rows of a DataFrame, without its index."""
    return pa.Table.from_pandas(frame, preserve_index=False).to_reader(BATCH_ROWS)


def noting(rows: RowBatches, tickers: set[str]) -> RowBatches:
    """``rows``, whose tickers are added to ``tickers`` while they are read; the first ones at once.

    So ``tickers`` is empty if there are no rows at all.

    Raises:
        StoreError: as for ``last``.
    """

    def noted() -> Iterator[pa.RecordBatch]:
        for batch in _query_batches(rows):
            tickers.update(pc.unique(batch["symbol"]).to_pylist())
            yield batch

    batches = noted()
    first = list(itertools.islice(batches, 1))
    return pa.RecordBatchReader.from_batches(rows.schema, itertools.chain(first, batches))


def traded(bars: pa.Table) -> set[str]:
    """The tickers of ``bars`` of which a bar has a trade or a price."""
    some = bars.filter((pc.field("trades") > 0) | pc.field("open").is_valid())
    return set(pc.unique(some["symbol"]).to_pylist())


def last_rows(rows: RowBatches, count: int) -> RowBatches:
    """The last ``count`` of ``rows``, which are read to their end; all of them for 0.

    Raises:
        StoreError: a file is damaged, or was compacted meanwhile.
    """
    if not count:
        return rows
    kept: deque[pa.RecordBatch] = deque()
    held = 0
    for batch in _query_batches(rows):
        kept.append(batch)
        held += len(batch)
        while held - len(kept[0]) >= count:
            held -= len(kept.popleft())
    table = pa.Table.from_batches(kept, rows.schema)
    return table.slice(max(0, held - count)).to_reader(BATCH_ROWS)


def to_frame(rows: RowBatches) -> pd.DataFrame:
    """All of ``rows`` at once, for a table that a person reads.

    Raises:
        StoreError: as for ``last``.
    """
    data: pd.DataFrame = pa.Table.from_batches(_query_batches(rows), rows.schema).to_pandas()
    return data


def write_csv(rows: RowBatches, write: Callable[[str], object]) -> None:
    """As CSV: times as ``2026-11-23 14:30:00.000Z``, texts in quotes, as they are.

    A spreadsheet may take a text that begins with one of ``= + - @`` for a formula; to change it
    would change the data.

    Raises:
        StoreError: as for ``last``.
    """
    write(",".join(rows.schema.names) + "\n")
    options = pacsv.WriteOptions(include_header=False)
    for batch in _query_batches(rows):
        text = io.BytesIO()
        pacsv.write_csv(batch, text, options)
        write(text.getvalue().decode())


def write_json_lines(rows: RowBatches, write: Callable[[str], object]) -> None:
    """As JSON, an object a line; times as ISO text with microseconds, numbers with all digits.

    Raises:
        StoreError: as for ``last``.
    """
    encode = msgspec.json.Encoder().encode_lines
    for batch in _query_batches(rows):
        data = pa.table([_iso(column) for column in batch.columns], batch.schema.names)
        write(encode(data.to_pylist()).decode())


def _iso(column: pa.Array) -> pa.Array:
    if not pa.types.is_timestamp(column.type):
        return column
    return pc.strftime(column.cast(pa.timestamp("us", "UTC")), "%Y-%m-%dT%H:%M:%SZ")


def write_parquet(rows: RowBatches, path: Path) -> None:
    """As a Parquet file, which is there when it is whole; one that was there is replaced.

    Raises:
        StoreError: as for ``last``; or the file cannot be written.
        UsageError: something else than a file or a pipe is there.
    """
    with (
        files.output(path) as file,
        pq.ParquetWriter(file, rows.schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in _query_batches(rows):
            writer.write_batch(batch)


def _query_batches(rows: RowBatches) -> Iterator[pa.RecordBatch]:
    """The batches that hold something; what cannot be read is told in a sentence."""
    try:
        for batch in rows:
            if len(batch):
                yield batch
    except FileNotFoundError as error:
        raise StoreError("A day was compacted while it was read: ask again.") from error
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        raise StoreError(f"A file is damaged, `stocktrace verify` tells more: {text}") from error
