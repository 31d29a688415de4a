"""Published files: rows of many tickers, sorted by ticker, and within one in the order of arrival.

    row group │ AAAU ABEV ABNB │ … │ AAPL 32 Ki rows │ AAPL 32 Ki │ AAPL rest, ACHC ADBE │ …

A row group ends where a ticker ends, so that a reader of one ticker decodes little else. Small
tickers share a group, large ones are cut. The groups' statistics of ``symbol`` and of both times
show every reader which groups it needs.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

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
from stocktrace.store.remote import RemoteFile

# pyarrow's default pages of 20,000 rows cost 2-4 % in size.
_PAGE_ROWS = 1 << 20
_SHARED_ROWS = 1 << 13, 1 << 15
# So many groups of small tickers have a footer of 30 kB, and each costs a reader of all 0.2 ms.
_SHARED_GROUPS = 32
# As dictionaries, texts cost a tenth to decode; only the rows that match become texts.
_TEXTS = ["symbol", "conditions", "session"]
_READ_SCHEMA = pa.schema(
    field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in _TEXTS else field
    for field in FILE_SCHEMA
)
# Long runs of one value are a few bytes: compressing them makes them longer, and slower to read.
_RUNS = ["symbol", "session", "window_number"]
_PLACES = {name: place for place, name in enumerate(FILE_SCHEMA.names)}
_PHYSICAL_TYPES = {
    **dict.fromkeys(_TEXTS, "BYTE_ARRAY"),
    **dict.fromkeys(["ts_event", "ts_recv"], "INT64"),
    **dict.fromkeys(["price", "volume"], "DOUBLE"),
    "window_number": "INT32",
}
_BATCH_ROWS = 1 << 16
# So many rows are decoded at a time, before those that do not match are left out: few enough for a
# processor's cache. From a lake, each such read is a request or more.
_READ_ROWS = 1 << 17
_READ_ROWS_OF_LAKE = 1 << 20

#: ``begin`` <= value < ``end`` of a column of times (in its unit since the epoch) or numbers.
Bounds = Mapping[str, tuple[int | None, int | None]]


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
        compression={name: "none" if name in _RUNS else "zstd" for name in FILE_SCHEMA.names},
        compression_level=dict.fromkeys(
            [name for name in FILE_SCHEMA.names if name not in _RUNS], form.zstd_level
        ),
        use_dictionary=[*_RUNS, "price", "volume", "conditions"],
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
        self._open = open_parquet(path, _READ_SCHEMA, filesystem, size=size)
        self._file = self._open.__enter__()
        self._metadata = self._file.metadata
        self._known_limits: dict[tuple[int, str], tuple[int, int] | None] = {}
        self._known_tickers: dict[int, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(None, None, None)

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
        with reading(self._path):
            groups = self._groups(wanted, bounds)
            return self._read_matches(groups, columns, wanted, session, bounds)

    def read_last(
        self,
        count: int,
        columns: Sequence[str],
        *,
        tickers: Collection[str] = (),
        bounds: Bounds | None = None,
    ) -> pa.Table:
        """Read the last ``count`` rows of those that ``read`` returns, and few row groups before.

        Raises:
            ConversionError: The rows cannot be read.
        """
        wanted, bounds = sorted(tickers), bounds or {}
        tables, rows = [_READ_SCHEMA.empty_table().select(columns)], 0
        with reading(self._path):
            for group in reversed(self._groups(wanted, bounds)):
                tables.append(self._read_matches([group], columns, wanted, "", bounds))
                rows += len(tables[-1])
                if rows >= count:
                    break
        return pa.concat_tables(reversed(tables)).slice(max(0, rows - count))

    def _read_matches(
        self,
        groups: Sequence[int],
        columns: Sequence[str],
        tickers: Sequence[str],
        session: str,
        bounds: Bounds,
    ) -> pa.Table:
        bounds = {
            name: limits
            for name, limits in bounds.items()
            if not all(self._is_within(group, name, *limits) for group in groups)
        }
        needed = {*columns, *bounds}
        needed |= {"symbol"} if tickers else set()
        needed |= {"session"} if session else set()
        wanted, batches = {*tickers}, []
        for table in self._read_groups(groups, needed):
            for batch in table.to_batches():
                rows: _Rows = slice(0, len(batch))
                if tickers:
                    rows = _rows_of_tickers(batch["symbol"], wanted)
                if session or bounds:
                    rows = _matching_rows(batch, rows, session, bounds)
                part = _take(batch.select(columns), rows)
                batches.append(_check_texts(part))
        if not batches:
            return _READ_SCHEMA.empty_table().select(columns)
        return pa.Table.from_batches(batches)

    def _read_groups(self, groups: Sequence[int], columns: Collection[str]) -> Iterator[pa.Table]:
        """Yield the rows of row groups, about ``_READ_ROWS`` at a time."""
        limit = _READ_ROWS_OF_LAKE if isinstance(self._file, RemoteFile) else _READ_ROWS
        begin = rows = 0
        for end, group in enumerate(groups, 1):
            rows += self._metadata.row_group(group).num_rows
            if rows < limit and end < len(groups):
                continue
            table = self._file.read_row_groups(groups[begin:end], [*columns], use_threads=False)
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
                    for table in self._read_groups([group], columns):
                        yield _check_texts(table).cast(schema)
                elif first != previous:
                    batches = self._file.iter_batches(count, [group], [*columns], use_threads=False)
                    for batch in itertools.islice(batches, 1):
                        yield pa.Table.from_batches([batch]).cast(schema)
            previous = last

    def count_trades(self) -> Counter[str]:
        """Return the number of rows of each ticker, in order.

        Raises:
            ConversionError: The rows cannot be read.
        """
        counts: Counter[str] = Counter()
        with reading(self._path):
            groups = range(self._metadata.num_row_groups)
            for table in map(_check_texts, self._read_groups(groups, ["symbol"])):
                counts.update(count_tickers(table))
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
        groups: Iterable[int] = range(self._metadata.num_row_groups)
        if tickers:
            groups = self._groups_of_tickers(tickers)
        for name, (begin, end) in bounds.items():
            groups = [at for at in groups if self._may_be_within(at, name, begin, end)]
        return list(groups)

    def _groups_of_tickers(self, tickers: Sequence[str]) -> Iterator[int]:
        groups = range(self._metadata.num_row_groups)
        begin = bisect.bisect_left(groups, tickers[0], key=lambda at: self._tickers(at)[1])
        for group in groups[begin:]:
            first, last = self._tickers(group)
            if first > tickers[-1]:
                break
            if tickers[bisect.bisect_left(tickers, first)] <= last:
                yield group

    def _tickers(self, group: int) -> tuple[str, str]:
        """Return the first and the last ticker of a row group."""
        if group not in self._known_tickers:
            statistics = self._statistics(group, "symbol")
            if statistics is None:
                raise ConversionError(
                    f"{self._path} has no statistics: it is not a file of stocktrace."
                )
            self._known_tickers[group] = statistics.min, statistics.max
        return self._known_tickers[group]

    def _may_be_within(self, group: int, name: str, begin: int | None, end: int | None) -> bool:
        limits = self._limits(group, name)
        return limits is None or (
            (begin is None or limits[1] >= begin) and (end is None or limits[0] < end)
        )

    def _is_within(self, group: int, name: str, begin: int | None, end: int | None) -> bool:
        limits = self._limits(group, name)
        return limits is not None and (
            (begin is None or limits[0] >= begin) and (end is None or limits[1] < end)
        )

    def _limits(self, group: int, name: str) -> tuple[int, int] | None:
        key = group, name
        if key not in self._known_limits:
            statistics = self._statistics(group, name)
            limits = None if statistics is None else (statistics.min_raw, statistics.max_raw)
            self._known_limits[key] = limits
        return self._known_limits[key]

    def _statistics(self, group: int, name: str) -> pq.Statistics | None:
        column = self._metadata.row_group(group).column(_PLACES[name])
        if column.physical_type != _PHYSICAL_TYPES[name]:
            # pyarrow 26 would abort if it were asked for the statistics.
            raise ConversionError(f"{self._path} cannot be read: its footer is damaged.")
        statistics = column.statistics
        return statistics if statistics is not None and statistics.has_min_max else None


_TableOrBatch = TypeVar("_TableOrBatch", pa.Table, pa.RecordBatch)
#: Numbers of rows, ascending.
_Rows = slice | npt.NDArray[np.int64]


def _rows_of_tickers(symbols: pa.DictionaryArray, tickers: Collection[str]) -> _Rows:
    """Return the rows of ``tickers``. Rows are sorted, so those of a ticker are consecutive."""
    names = symbols.dictionary.to_pylist()
    codes = [code for code, name in enumerate(names) if name in tickers]
    if len(codes) == len(names):
        return slice(0, len(symbols))
    edges = np.array([codes, [code + 1 for code in codes]], np.int32)
    begins, ends = np.searchsorted(symbols.indices.to_numpy(), edges).tolist()
    if not codes:
        return slice(0, 0)
    if codes[-1] - codes[0] + 1 == len(codes):
        return slice(begins[0], ends[-1])
    return np.concatenate(list(map(np.arange, begins, ends)))


def _matching_rows(batch: pa.RecordBatch, rows: _Rows, session: str, bounds: Bounds) -> _Rows:
    """Return those of ``rows`` that match."""
    masks = []
    if session:
        sessions = batch["session"]
        masks += [sessions.indices.to_numpy()[rows] == sessions.dictionary.index(session).as_py()]
    for name, (begin, end) in bounds.items():
        values = batch[name].to_numpy()[rows]
        if values.dtype.kind == "M":
            values = values.view(np.int64)
        masks += [] if begin is None else [values >= begin]
        masks += [] if end is None else [values < end]
    if not masks:
        return rows
    matches = np.flatnonzero(functools.reduce(np.logical_and, masks))
    matching: _Rows = matches + rows.start if isinstance(rows, slice) else rows[matches]
    return matching


def _take(batch: pa.RecordBatch, rows: _Rows) -> pa.RecordBatch:
    """Return ``rows`` of ``batch``; few of them are a copy, which keeps no others in memory."""
    if not isinstance(rows, slice):
        if len(rows) == 0 or rows[-1] - rows[0] + 1 > len(rows):
            return batch.take(pa.array(rows))
        rows = slice(int(rows[0]), int(rows[-1]) + 1)
    part = batch.slice(rows.start, rows.stop - rows.start)
    return part if len(part) > len(batch) // 2 else pa.concat_batches([part])


def _check_texts(rows: _TableOrBatch) -> _TableOrBatch:
    """Return ``rows``; a damaged page header can leave indices without texts (ArrowInvalid)."""
    rows.validate(full=True)
    return rows


def with_texts(tables: Sequence[pa.Table], columns: Sequence[str]) -> pa.Table:
    """Return the rows of ``tables``, which have ``columns``, with texts instead of dictionaries."""
    if not tables:
        return _schema_of(columns).empty_table()
    return pa.concat_tables(tables).cast(_schema_of(columns))


def count_tickers(table: pa.Table) -> dict[str, int]:
    """Return the number of rows of each ticker, in the order in which they come."""
    counts = pc.value_counts(table["symbol"])
    tickers, rows = (counts.field(name).to_pylist() for name in ("values", "counts"))
    return dict(zip(tickers, rows, strict=True))


def _schema_of(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([FILE_SCHEMA.field(name) for name in columns])
