"""Merge the files of a ticker's day into one, in a step that no reader sees half of.

1. The file is built in ``compacting/date=…/symbol=…``, where no reader looks, from the windows'
   rows in order (``partition``). The rows of each are compared with the hash in its footer.
2. The file is read back, compared and synced.
3. The two *folders* are swapped. A reader that lists the folder finds all old files or the new one.
   No name is used for two contents (``day-<n>``), so a reader that listed the old files either
   reads them or misses them; it never mixes them with the new one.
4. The old folder, now in ``compacting``, is deleted.

After a crash the next run finds a folder in ``compacting`` and finishes the work: nothing in it is
deleted before its windows are found in the dataset.

``ConversionError`` says that a file is damaged; nothing was changed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from stocktrace.errors import ConversionError, StocktraceError, StoreError
from stocktrace.store import files, footer, lock
from stocktrace.store.checksum import ContentHash, content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_number, is_day_file
from stocktrace.store.parquet import RowRangeReader, trade_writer
from stocktrace.store.partition import (
    WindowRowsReader,
    files_in_order,
    list_window_rows,
    window_rows_in,
)

# 3 % smaller than level 9, for 2.2 times the time, 1.8 µs a trade; once a day, outside the hours of
# capture (docs/storage.md).
COMPACTED_ZSTD_LEVEL = 15
# Much smaller than a window's: for 3 % more bytes, readers skip the groups whose times do not
# match, so that reading an hour of one ticker costs an hour (docs/reading.md).
COMPACTED_ROW_GROUP = 1 << 15


@dataclass(frozen=True, slots=True)
class CompactedDay:
    """A ticker's day that is one file now, of ``rows`` trades that were in ``files`` files."""

    ticker: str
    date: str
    path: Path
    files: int
    rows: int
    size_before: int
    size: int


@dataclass(frozen=True, slots=True)
class CompactionSource:
    """A function that reads the rows of a window, and their hash."""

    window: WindowId
    read: Callable[[], Iterator[pa.RecordBatch]]
    content: str


def compact_day(layout: Layout, ticker: str, date: str) -> CompactedDay | None:
    """Merge the files of a ticker's day into one; ``None`` if it is one already.

    The caller holds ``lock.compaction_lock``, and no process records that day any more.
    """
    finish_swap(layout, ticker, date)
    live = layout.partition(ticker, date)
    paths = files_in_order(live)
    if not paths or (len(paths) == 1 and is_day_file(paths[0])):
        return None
    windows = list_window_rows(live)
    for rows, following in pairwise(windows):
        if rows.part == following.part:
            raise ConversionError(f"{live} has {rows.part.stem} twice: run `stocktrace verify`.")
    with WindowRowsReader() as reader:
        sources = [
            CompactionSource(rows.part, partial(reader.rows, rows), rows.content)
            for rows in windows
        ]
        return replace_day(layout, ticker, date, sources)


def replace_day(
    layout: Layout, ticker: str, date: str, sources: Sequence[CompactionSource]
) -> CompactedDay | None:
    """Replace all files of a ticker's day by one with the rows of ``sources``.

    Returns ``None`` if the files changed in the meantime: the next run compacts the day.
    """
    live, staged = layout.partition(ticker, date), layout.compaction_staging(ticker, date)
    before = _folder_state(live)
    path = staged / f"day-{_last_day_number(live) + 1:05}.parquet"
    try:
        with files.disk_errors(path):
            staged.mkdir(parents=True)
            expected = _write(sources, path)
            _check_written(path, expected)
            files.sync_file(path)
            files.sync_file(staged)
            # Conversions share the lock on the date's folder. With the exclusive lock, no file is
            # being published there, and none can appear between the check and the swap.
            with lock.lock_folder(live.parent, exclusive=True):
                unchanged = _folder_state(live) == before
                if unchanged:
                    files.swap_folders(staged, live)
                    files.sync_file(live.parent)
                    files.sync_file(staged.parent)
    except BaseException:
        with contextlib.suppress(StocktraceError, OSError):  # otherwise the next run does it
            finish_swap(layout, ticker, date)
        raise
    finish_swap(layout, ticker, date)
    if not unchanged:
        return None
    final = live / path.name
    rows = sum(content.rows for content in expected.values())
    size_before = sum(size for _, size, _ in before.values())
    return CompactedDay(ticker, date, final, len(before), rows, size_before, final.stat().st_size)


def finish_swap(layout: Layout, ticker: str, date: str) -> bool:
    """Remove what a compaction left in ``compacting``; return whether it left something.

    That is a new folder that was never swapped, or the old one. The old one is deleted only when
    the dataset has all its windows.

    Raises:
        StoreError: The dataset lacks a window of the old folder.
    """
    staged, live = layout.compaction_staging(ticker, date), layout.partition(ticker, date)
    exists = staged.exists()
    if exists:
        if _last_day_number(staged) <= _last_day_number(live):
            _check_replaced(staged, live)
        with files.disk_errors(staged):
            shutil.rmtree(staged)
    with contextlib.suppress(OSError):  # it has folders of other tickers, or does not exist
        staged.parent.rmdir()
    return exists


def _check_replaced(old: Path, live: Path) -> None:
    published = {rows.part for rows in list_window_rows(live)}
    for path in files_in_order(old):
        try:
            windows = [rows.part for rows in window_rows_in(path)]
        except ConversionError:
            continue  # compaction stops at such a file: only a repair can have replaced it
        for window in windows:
            if window not in published:
                raise StoreError(
                    f"{path} has {window.stem}, but {live} does not: move the file there."
                )


def _last_day_number(folder: Path) -> int:
    """Return how often the day had been compacted when ``folder`` was made."""
    return max(
        (day_number(path) for path in files_in_order(folder) if is_day_file(path)), default=0
    )


def _folder_state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of each file in a folder."""
    state = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".parquet":  # it would be deleted with the folder
            raise StoreError(f"{path} is not a file of stocktrace: move it out of the data folder.")
        status = path.stat()
        state[path.name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return state


def _write(sources: Iterable[CompactionSource], path: Path) -> dict[WindowId, ContentHash]:
    """Write the rows of ``sources`` and return the hash of each window."""
    contents: dict[WindowId, ContentHash] = {}
    whole = ContentHash()

    def batches() -> Iterator[pa.RecordBatch]:
        for source in sources:
            content = contents[source.window] = ContentHash()
            for batch in source.read():
                content.update(batch)
                whole.update(batch)
                yield batch
            if content.hexdigest() != source.content:
                raise ConversionError(
                    f"The rows of {source.window.stem} do not match the hash in the footer of "
                    "their file: run `stocktrace verify --repair`."
                )

    with trade_writer(path, COMPACTED_ZSTD_LEVEL) as writer:
        for table in _row_groups(batches()):
            writer.write_table(table, COMPACTED_ROW_GROUP)
        windows = [
            (window, content.rows, content.hexdigest()) for window, content in contents.items()
        ]
        footer.add_footer(writer, parts=footer.format_windows(windows), content=whole.hexdigest())
    return contents


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of ``batches`` as tables of ``COMPACTED_ROW_GROUP`` rows, and the rest."""
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        pending.append(batch)
        rows += batch.num_rows
        while rows >= COMPACTED_ROW_GROUP:
            table = pa.Table.from_batches(pending)
            yield table.slice(0, COMPACTED_ROW_GROUP)
            pending = table.slice(COMPACTED_ROW_GROUP).to_batches()
            rows -= COMPACTED_ROW_GROUP
    if rows:
        yield pa.Table.from_batches(pending)


def _check_written(path: Path, expected: dict[WindowId, ContentHash]) -> None:
    """Read a file back and compare it, window by window, with what was to be written."""
    with RowRangeReader(path) as file:
        written = {
            rows.part: content_hash(file.rows(rows.offset, rows.rows))
            for rows in window_rows_in(path)
        }
    if list(written) != list(expected) or any(
        written[window].hexdigest() != expected[window].hexdigest() for window in expected
    ):
        raise ConversionError(f"{path} does not hold the rows that were written.")
