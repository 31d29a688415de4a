"""Read and write Parquet files: checksums are verified, errors name the file, writes are atomic.

Every Parquet file of the data folder is opened with ``open_parquet`` and, if it is not a file of
trades (``conversion``, ``compaction``), written with ``publish_table``.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import files
from stocktrace.store.arrow_schema import TRADE_SCHEMA

#: What pyarrow raises for a damaged file; UnicodeDecodeError for a name in its footer.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)

# Row groups below 64 Ki rows cost 4-15 % in size; with larger ones, reading one hour costs more.
ROW_GROUP = 1 << 18
# pyarrow's default pages of 20,000 rows cost 2-4 % in size.
_PAGE_ROWS = 1 << 20
# Level 9 saves 4 % in size for twice the time (docs/storage.md).
ZSTD_LEVEL = 3


@contextlib.contextmanager
def open_parquet(
    path: str | Path,
    schema: pa.Schema | None = None,
    filesystem: pafs.FileSystem | None = None,
) -> Iterator[pq.ParquetFile]:
    """Open a file with page checksums; reading it inside the context raises ``ConversionError``.

    Raises:
        ConversionError: The file is damaged, or its columns are not those of ``schema``.
        FileNotFoundError: The file does not exist (any more).
    """
    with (
        _reading(path, FileNotFoundError),
        pq.ParquetFile(path, page_checksum_verification=True, filesystem=filesystem) as file,
    ):
        if schema is not None and not file.schema_arrow.equals(schema):
            raise ConversionError(f"{path} has unexpected columns: {file.schema_arrow}.")
        yield file


@contextlib.contextmanager
def _reading(path: str | Path, *raised: type[Exception]) -> Iterator[None]:
    """Translate errors of pyarrow, except those that are to be ``raised``."""
    try:
        yield
    except raised:
        raise
    except UNREADABLE as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error


def read_table(
    path: str | Path, schema: pa.Schema, filesystem: pafs.FileSystem | None = None
) -> pa.Table:
    """Read a whole small file.

    Raises:
        ConversionError: The file is missing or damaged, or its columns are not those of ``schema``.
    """
    with _reading(path), open_parquet(path, schema, filesystem) as file:
        return file.read(use_threads=False)


def publish_table(
    table: pa.Table, final: Path, temporary: Path | None = None, *, store_schema: bool = True
) -> None:
    """Write a small file as a whole: a reader sees the old file or the new one.

    It is written beside ``temporary``, by default beside ``final``. That must be another folder if
    readers take every file beside ``final`` for data.
    """
    temporary = temporary or final
    files.make_folder(final.parent)
    files.make_folder(temporary.parent)
    with files.locked_temporary(temporary) as path:
        with files.disk_errors(path):
            pq.write_table(
                table, path, compression="zstd", write_page_checksum=True, store_schema=store_schema
            )
        files.publish_file(path, final)


def trade_writer(path: Path, level: int = ZSTD_LEVEL) -> pq.ParquetWriter:
    """Return a writer of trades, with the settings of the smallest files."""
    return pq.ParquetWriter(
        path,
        TRADE_SCHEMA,
        compression="zstd",
        compression_level=level,
        use_dictionary=["price", "volume", "conditions"],
        column_encoding=dict.fromkeys(("ts_event", "ts_recv"), "DELTA_BINARY_PACKED"),
        max_rows_per_page=_PAGE_ROWS,
        write_page_checksum=True,
        store_schema=False,
    )


def read_trade_file(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file of trades.

    Raises:
        ConversionError: The file is missing or damaged, or has other columns.
    """
    with _reading(path), open_parquet(path, TRADE_SCHEMA) as file:
        yield from file.iter_batches(batch_size=ROW_GROUP, use_threads=False)


class RowRangeReader:
    """Reads ranges of rows of one file of trades; a context manager.

    It keeps the row group that it read last, so that reading consecutive ranges costs as much as
    reading the file once. All errors are those of ``open_parquet``; ``ConversionError`` also if the
    file has fewer rows than are read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = contextlib.ExitStack()
        self._file = self._open.enter_context(open_parquet(path, TRADE_SCHEMA))
        groups = self._file.metadata
        rows = (groups.row_group(at).num_rows for at in range(groups.num_row_groups))
        self._ends = list(accumulate(rows))
        self._last: tuple[int, pa.Table] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def rows(self, offset: int, count: int) -> Iterator[pa.RecordBatch]:
        """Yield ``count`` rows from ``offset`` on."""
        end = offset + count
        if end > (self._ends[-1] if self._ends else 0):
            raise ConversionError(f"{self._path} has fewer rows than its footer says.")
        while offset < end:
            group = bisect.bisect_right(self._ends, offset)
            begin = self._ends[group - 1] if group else 0
            stop = min(end, self._ends[group])
            yield from self._group(group).slice(offset - begin, stop - offset).to_batches()
            offset = stop

    def head(self, offset: int, count: int) -> pa.Table:
        """Return at most ``count`` rows from ``offset`` on, of one row group."""
        group = bisect.bisect_right(self._ends, offset)
        if (self._last and self._last[0] == group) or offset not in (0, *self._ends):
            return pa.Table.from_batches(self.rows(offset, count), TRADE_SCHEMA)
        # At the start of a group, only the requested rows are decoded.
        with _reading(self._path):
            batches = self._file.iter_batches(count, [group], use_threads=False)
            return pa.Table.from_batches(islice(batches, 1), TRADE_SCHEMA)

    def _group(self, group: int) -> pa.Table:
        if self._last is None or self._last[0] != group:
            with _reading(self._path):
                self._last = group, self._file.read_row_group(group, use_threads=False)
        return self._last[1]
