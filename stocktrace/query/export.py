"""Write rows as CSV, JSON or Parquet, batch by batch, so that memory does not grow with them.

Functions that read rows raise ``StoreError`` if a file is damaged or was compacted in the meantime.
"""

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
from stocktrace.store.parquet import UNREADABLE
from stocktrace.trade import COLUMNS

#: Batches that are read when they are needed.
RowBatches: TypeAlias = pa.RecordBatchReader

# About 4 MB of trades; larger batches are not faster to convert.
BATCH_ROWS = 65_536


def rows_of_trades(trades: ds.Dataset) -> RowBatches:
    """Return the rows of a ``scan``; at most a few files are read ahead."""
    scanner = trades.scanner(
        list(COLUMNS),
        batch_size=BATCH_ROWS,
        batch_readahead=1,
        fragment_readahead=1,
        use_threads=False,
    )
    return scanner.to_reader()


def rows_of_frame(frame: pd.DataFrame) -> RowBatches:
    """Return the rows of a DataFrame, without its index."""
    return pa.Table.from_pandas(frame, preserve_index=False).to_reader(BATCH_ROWS)


def collect_tickers(rows: RowBatches, tickers: set[str]) -> RowBatches:
    """Return ``rows``; while they are read, their tickers are added to ``tickers``.

    The first batch is read at once: ``tickers`` stays empty only without rows.
    """

    def collect() -> Iterator[pa.RecordBatch]:
        for batch in _read_batches(rows):
            tickers.update(pc.unique(batch["symbol"]).to_pylist())
            yield batch

    batches = collect()
    first = list(itertools.islice(batches, 1))
    return pa.RecordBatchReader.from_batches(rows.schema, itertools.chain(first, batches))


def traded_tickers(bars: pa.Table) -> set[str]:
    """Return the tickers for which a bar has a trade or a price."""
    traded = bars.filter((pc.field("trade_count") > 0) | pc.field("open").is_valid())
    return set(pc.unique(traded["symbol"]).to_pylist())


def last_rows(rows: RowBatches, count: int) -> RowBatches:
    """Read ``rows`` to their end and return the last ``count``; 0 returns all of them unread."""
    if not count:
        return rows
    batches: deque[pa.RecordBatch] = deque()
    held = 0
    for batch in _read_batches(rows):
        batches.append(batch)
        held += len(batch)
        while held - len(batches[0]) >= count:
            held -= len(batches.popleft())
    table = pa.Table.from_batches(batches, rows.schema)
    return table.slice(max(0, held - count)).to_reader(BATCH_ROWS)


def to_frame(rows: RowBatches) -> pd.DataFrame:
    """Return all ``rows`` as a DataFrame."""
    data: pd.DataFrame = pa.Table.from_batches(_read_batches(rows), rows.schema).to_pandas()
    return data


def write_csv(rows: RowBatches, write: Callable[[str], object]) -> None:
    """Write CSV: times as ``2026-11-23 14:30:00.000Z``, texts in quotes, as they are.

    A spreadsheet may take a text that begins with one of ``= + - @`` for a formula. Escaping it
    would change the data.
    """
    write(",".join(rows.schema.names) + "\n")
    options = pacsv.WriteOptions(include_header=False)
    for batch in _read_batches(rows):
        text = io.BytesIO()
        pacsv.write_csv(batch, text, options)
        write(text.getvalue().decode())


def write_json_lines(rows: RowBatches, write: Callable[[str], object]) -> None:
    """Write JSON, one object a line: times as ISO text with microseconds, numbers in full."""
    encode = msgspec.json.Encoder().encode_lines
    for batch in _read_batches(rows):
        data = pa.table([_iso(column) for column in batch.columns], batch.schema.names)
        write(encode(data.to_pylist()).decode())


def _iso(column: pa.Array) -> pa.Array:
    if not pa.types.is_timestamp(column.type):
        return column
    return pc.strftime(column.cast(pa.timestamp("us", "UTC")), "%Y-%m-%dT%H:%M:%SZ")


def write_parquet(rows: RowBatches, path: Path) -> None:
    """Write a Parquet file; it appears, or replaces an older file, when it is complete.

    Raises:
        StoreError: Also if the file cannot be written.
        UsageError: ``path`` is neither a file nor a pipe.
    """
    with (
        files.output(path) as file,
        pq.ParquetWriter(file, rows.schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in _read_batches(rows):
            writer.write_batch(batch)


def _read_batches(rows: RowBatches) -> Iterator[pa.RecordBatch]:
    """Yield the batches that have rows; errors are translated."""
    try:
        for batch in rows:
            if len(batch):
                yield batch
    except FileNotFoundError as error:
        raise StoreError("A day was compacted while it was read. Run the command again.") from error
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        raise StoreError(
            f"A file is damaged: {text}. Run `stocktrace verify` to find it."
        ) from error
