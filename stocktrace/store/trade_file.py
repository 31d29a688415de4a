"""Published files: rows of many tickers, sorted by ticker, and within one in the order of arrival.

    row group │ AAAU ABEV ABNB │ … │ AAPL 32 Ki rows │ AAPL 32 Ki │ AAPL rest, ACHC ADBE │ …

A row group ends where a ticker ends, so that a reader of one ticker decodes little else. Small
tickers share a group, large ones are cut. The groups' statistics of ``symbol`` and of both times
show every reader which groups it needs.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.footer import Windows, add_footer
from stocktrace.store.parquet import open_parquet, reading

# pyarrow's default pages of 20,000 rows cost 2-4 % in size.
_PAGE_ROWS = 1 << 20
_SHARED_ROWS = 1 << 13, 1 << 15
# So many groups of small tickers keep a footer below 64 kB.
_SHARED_GROUPS = 64
# As dictionaries, texts cost a tenth to decode; only the rows that match become texts.
_TEXTS = ["symbol", "conditions", "session"]
_TEXT_COLUMNS = [FILE_SCHEMA.get_field_index(name) for name in _TEXTS]
_READ_SCHEMA = pa.schema(
    field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in _TEXTS else field
    for field in FILE_SCHEMA
)
_BATCH_ROWS = 1 << 16
# So many rows are decoded at a time, before those that do not match are left out.
_READ_ROWS = 1 << 20

#: ``begin`` <= value < ``end`` of a column of times (in its unit since the epoch) or numbers.
Bounds = Mapping[str, tuple[int | None, int | None]]


@dataclass(frozen=True, slots=True)
class TradeFile:
    """A file of trades in the file system of a ``DataSource``; ``size`` is known in a lake."""

    path: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How the rows of a file are compressed, and how many a row group of one ticker has."""

    zstd_level: int
    group_rows: int


#: A window's: level 9 saves 4 % in size for twice the time (docs/storage.md).
WINDOW_FORMAT = FileFormat(3, 1 << 18)
#: A compacted date's: level 15 is 3 % smaller than level 9, for 2.2 times the time, 1.8 µs a trade;
#: once a day, outside the hours of capture. For 3 % more bytes, small groups let readers skip the
#: times that they do not want.
DATE_FORMAT = FileFormat(15, 1 << 15)


def write_trade_files(
    paths: Iterable[Path],
    tables: Iterable[pa.Table],
    windows: Callable[[], Windows],
    *,
    rows: int,
    form: FileFormat,
    max_bytes: int | None = None,
) -> list[Path]:
    """Write rows (``FILE_SCHEMA``, sorted by ticker) into one file, or more: one per ``max_bytes``.

    ``windows`` is called for the footer when the rows of a file were written. ``rows`` is about how
    many there are. Returns the ``paths`` that were used.
    """
    names, written = iter(paths), list[Path]()
    groups = cut_row_groups(tables, rows, form)
    group = next(groups, None)
    while group is not None:
        path = next(names)
        written.append(path)
        with path.open("wb") as sink, _open_writer(sink, form) as writer:
            while group is not None:
                writer.write_table(group, len(group))
                group = next(groups, None)
                if max_bytes is not None and sink.tell() >= max_bytes:
                    break
            add_footer(writer, windows())
    return written


def _open_writer(sink: Any, form: FileFormat) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        FILE_SCHEMA,
        compression="zstd",
        compression_level=form.zstd_level,
        use_dictionary=["symbol", "price", "volume", "conditions", "session", "window_number"],
        column_encoding={
            "ts_event": "DELTA_BINARY_PACKED",
            "ts_recv": "DELTA_BINARY_PACKED",
        },
        write_statistics=["symbol", "ts_event", "ts_recv"],  # the others make footers twice as long
        max_rows_per_page=_PAGE_ROWS,
        write_page_checksum=True,
        store_schema=False,
    )


def cut_row_groups(tables: Iterable[pa.Table], rows: int, form: FileFormat) -> Iterator[pa.Table]:
    """Yield the rows of ``tables``, which have about so many ``rows``, as row groups."""
    low, high = _SHARED_ROWS
    shared = min(max(low, rows // _SHARED_GROUPS), high)
    rest = FILE_SCHEMA.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table]).combine_chunks()
        begin = 0
        for end in _group_ends(_ticker_ends(rest["symbol"]), shared, form.group_rows):
            yield rest.slice(begin, end - begin)
            begin = end
        rest = rest.slice(begin)
    if len(rest):
        yield rest


def _ticker_ends(symbols: pa.ChunkedArray) -> list[int]:
    """Return where each ticker ends."""
    if not len(symbols):
        return []
    runs = pc.run_end_encode(symbols.combine_chunks())
    return runs.run_ends.to_pylist()  # type: ignore[no-any-return]


def _group_ends(ticker_ends: Sequence[int], shared: int, large: int) -> Iterator[int]:
    """Yield where row groups end; the last ticker may go on, so it is only cut if it is large."""
    begin = ticker_begin = 0
    for at, end in enumerate(ticker_ends):
        is_last = at == len(ticker_ends) - 1
        if begin < ticker_begin and end - begin > shared:
            yield ticker_begin
            begin = ticker_begin
        while end - begin >= large:
            begin += large
            yield begin
        if begin < end and end - begin >= shared and not is_last:
            yield end
            begin = end
        ticker_begin = end


class TradeFileReader:
    """Reads the rows of a published file that match; a context manager."""

    def __init__(
        self, path: str | Path, filesystem: pafs.FileSystem | None = None, size: int | None = None
    ) -> None:
        """Open ``path``, of a known ``size`` without a request; raises as ``open_parquet`` does."""
        self._path = path
        self._open = contextlib.ExitStack()
        self._file = self._open.enter_context(
            open_parquet(path, FILE_SCHEMA, filesystem, size=size, read_dictionary=_TEXT_COLUMNS)
        )
        self._metadata = self._file.metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return int(self._metadata.num_rows)

    def read(
        self,
        columns: Sequence[str] = FILE_SCHEMA.names,
        *,
        tickers: Collection[str] = (),
        session: str = "",
        bounds: Bounds | None = None,
    ) -> pa.Table:
        """Read the rows of ``tickers`` (default all), of one ``session``, within ``bounds``.

        Row groups that cannot have them are not read. Texts are dictionaries (``with_texts``).

        Raises:
            ConversionError: The rows cannot be read.
        """
        wanted, bounds = sorted(tickers), bounds or {}
        needed = {*columns, *bounds}
        needed |= {"symbol"} if wanted else set()
        needed |= {"session"} if session else set()
        tables = []
        with reading(self._path):
            for table in self._read_groups(self._groups(wanted, bounds), needed):
                mask = _mask(table, wanted, session, bounds)
                tables.append(_filter(table.select(columns), mask))
        empty = _READ_SCHEMA.empty_table().select(columns)
        return pa.concat_tables(tables) if tables else empty

    def _read_groups(self, groups: Sequence[int], columns: Collection[str]) -> Iterator[pa.Table]:
        """Yield the rows of row groups, about ``_READ_ROWS`` at a time."""
        begin = rows = 0
        for end, group in enumerate(groups, 1):
            rows += self._metadata.row_group(group).num_rows
            if rows < _READ_ROWS and end < len(groups):
                continue
            table = self._file.read_row_groups(groups[begin:end], [*columns], use_threads=False)
            for name in set(columns) & set(_TEXTS):
                table[name].validate(full=True)  # a damaged page header can leave out texts
            if len(table):
                yield table
            begin, rows = end, 0

    def read_heads(self, count: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield about the first ``count`` rows of each ticker, and all of small ones.

        Of a large ticker that has row groups of its own, only the first is read.
        """
        schema, previous = _schema_of(columns), ""
        for group in range(self._metadata.num_row_groups):
            with reading(self._path):
                first, last = self._tickers(group)
                if first < last:
                    yield from (table.cast(schema) for table in self._read_groups([group], columns))
                elif first != previous:
                    batches = self._file.iter_batches(count, [group], [*columns], use_threads=False)
                    for batch in itertools.islice(batches, 1):
                        yield pa.Table.from_batches([batch]).cast(schema)
            previous = last

    def count_trades(self) -> dict[str, int]:
        """Return the number of rows of each ticker, in order.

        Raises:
            ConversionError: The rows cannot be read.
        """
        counts: dict[str, int] = {}
        with reading(self._path):
            tables = [*self._read_groups(range(self._metadata.num_row_groups), ["symbol"])]
        for chunk in (chunk for table in tables for chunk in table["symbol"].chunks):
            rows = np.bincount(chunk.indices.to_numpy(), minlength=len(chunk.dictionary))
            for ticker, count in zip(chunk.dictionary.to_pylist(), rows.tolist(), strict=True):
                if count:
                    counts[ticker] = counts.get(ticker, 0) + count
        return counts

    def batches(
        self, on_damage: Callable[[ConversionError], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield all rows (``FILE_SCHEMA``), in their order.

        With ``on_damage``, it is called for each row group that cannot be read, and the others are
        read nevertheless.

        Raises:
            ConversionError: The rows cannot be read.
        """
        groups = list(range(self._metadata.num_row_groups))
        for some in [groups] if on_damage is None else [[group] for group in groups]:
            try:
                with reading(self._path):
                    for batch in self._file.iter_batches(_BATCH_ROWS, some, use_threads=False):
                        yield batch.cast(FILE_SCHEMA)
            except ConversionError as error:
                if on_damage is None:
                    raise
                on_damage(error)

    def _groups(self, tickers: Sequence[str], bounds: Bounds) -> list[int]:
        """Return the row groups that can have rows of ``tickers`` (sorted) within ``bounds``."""
        groups: Sequence[int] = range(self._metadata.num_row_groups)
        if tickers:
            first = bisect.bisect_left(groups, tickers[0], key=lambda at: self._tickers(at)[1])
            stop = bisect.bisect_right(groups, tickers[-1], key=lambda at: self._tickers(at)[0])
            groups = [at for at in groups[first:stop] if _is_any_within(tickers, self._tickers(at))]
        for name, (begin, end) in bounds.items():
            groups = [at for at in groups if self._may_be_within(at, name, begin, end)]
        return list(groups)

    def _tickers(self, group: int) -> tuple[str, str]:
        """Return the first and the last ticker of a row group."""
        statistics = self._statistics(group, "symbol")
        if statistics is None:
            raise ConversionError(
                f"{self._path} has no statistics: it is not a file of stocktrace."
            )
        return statistics.min, statistics.max

    def _may_be_within(self, group: int, name: str, begin: int | None, end: int | None) -> bool:
        statistics = self._statistics(group, name)
        return statistics is None or (
            (begin is None or statistics.max_raw >= begin)
            and (end is None or statistics.min_raw < end)
        )

    def _statistics(self, group: int, name: str) -> pq.Statistics | None:
        at = FILE_SCHEMA.get_field_index(name)
        column = self._metadata.row_group(group).column(at)
        if column.physical_type != self._file.schema.column(at).physical_type:
            # pyarrow 26 would abort if it were asked for the statistics.
            raise ConversionError(f"{self._path} cannot be read: its footer is damaged.")
        statistics = column.statistics
        return statistics if statistics is not None and statistics.has_min_max else None


def _is_any_within(tickers: Sequence[str], limits: tuple[str, str]) -> bool:
    first, last = limits
    at = bisect.bisect_left(tickers, first)
    return at < len(tickers) and tickers[at] <= last


def _mask(
    table: pa.Table, tickers: Sequence[str], session: str, bounds: Bounds
) -> npt.NDArray[np.bool_]:
    """Return which rows match."""
    masks = [np.ones(len(table), np.bool_)]
    if tickers:
        masks.append(_is_in(table["symbol"], tickers))
    if session:
        masks.append(_is_in(table["session"], [session]))
    for name, (begin, end) in bounds.items():
        values = table[name].cast("int64").to_numpy()
        masks += [] if begin is None else [values >= begin]
        masks += [] if end is None else [values < end]
    mask: npt.NDArray[np.bool_] = np.logical_and.reduce(masks)
    return mask


def _is_in(column: pa.ChunkedArray, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    wanted = pa.array(texts, pa.string())
    matches = [
        pc.is_in(chunk.dictionary, wanted).to_numpy(zero_copy_only=False)[chunk.indices.to_numpy()]
        for chunk in column.chunks
    ]
    return np.concatenate(matches)


def _filter(table: pa.Table, mask: npt.NDArray[np.bool_]) -> pa.Table:
    """Return the rows of ``mask``, without a copy if they are consecutive."""
    at = np.flatnonzero(mask)
    if len(at) and at[-1] - at[0] + 1 == len(at):
        return table.slice(at[0], len(at))
    return table.take(pa.array(at))


def with_texts(tables: Sequence[pa.Table], columns: Sequence[str]) -> pa.Table:
    """Return the rows of ``tables``, which have ``columns``, with texts instead of dictionaries."""
    if not tables:
        return _schema_of(columns).empty_table()
    return pa.concat_tables(tables).cast(_schema_of(columns))


def _schema_of(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([FILE_SCHEMA.field(name) for name in columns])
