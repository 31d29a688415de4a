"""Ranges of rows of a published file, page checksums verified."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.footer import UNREADABLE


class RowRangeReader:
    """Reads ranges of rows of one file, as a context.

    The row group that was read last stays in memory: ranges that follow one another cost together
    what the file does.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``; ``FileNotFoundError`` if it is not there."""
        self._path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            raise ConversionError(f"{path} cannot be read: {error}.") from error
        if not self._file.schema_arrow.equals(TRADE_SCHEMA):
            raise ConversionError(f"{path} has other columns than ours: {self._file.schema_arrow}.")
        facts = self._file.metadata
        rows = (facts.row_group(at).num_rows for at in range(facts.num_row_groups))
        self._ends = list(accumulate(rows))
        self._held: tuple[int, pa.Table] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def rows(self, offset: int, count: int) -> Iterator[pa.RecordBatch]:
        """The rows from ``offset`` on, ``count`` of them.

        Raises:
            ConversionError: they cannot be read, or are not there.
        """
        end = offset + count
        if end > (self._ends[-1] if self._ends else 0):
            raise ConversionError(f"{self._path} has fewer rows than its footer tells.")
        while offset < end:
            group = bisect.bisect_right(self._ends, offset)
            begin = self._ends[group - 1] if group else 0
            stop = min(end, self._ends[group])
            yield from self._group(group).slice(offset - begin, stop - offset).to_batches()
            offset = stop

    def head(self, offset: int, count: int) -> pa.Table:
        """At most ``count`` rows from ``offset`` on, of one row group.

        Raises:
            ConversionError: they cannot be read, or are not there.
        """
        group = bisect.bisect_right(self._ends, offset)
        if (self._held and self._held[0] == group) or offset not in (0, *self._ends):
            return pa.Table.from_batches(self.rows(offset, count), TRADE_SCHEMA)
        # Where a group begins, no more than what is asked for is decoded.
        try:
            some = self._file.iter_batches(count, [group], use_threads=False)
            return pa.Table.from_batches(islice(some, 1), TRADE_SCHEMA)
        except UNREADABLE as error:
            raise ConversionError(f"{self._path} cannot be read: {error}.") from error

    def _group(self, group: int) -> pa.Table:
        if self._held is None or self._held[0] != group:
            try:
                self._held = group, self._file.read_row_group(group, use_threads=False)
            except UNREADABLE as error:
                raise ConversionError(f"{self._path} cannot be read: {error}.") from error
        return self._held[1]
