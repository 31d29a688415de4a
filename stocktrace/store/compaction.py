"""Merge the files of a date into one, in a step that no reader sees half of.

1. The file is built in ``compacting/date=…``, where no reader looks: the rows of all windows,
   sorted by ticker, and within one by session and window. A large date becomes several files.
2. The files are read back. The rows of each window must have the hash that the footer of its old
   file says. Then they are synced.
3. The two *folders* are swapped. A reader that lists the folder finds all old files or all new
   ones. No name is used for two contents (``day-<n>``), so a reader that listed the old files
   either reads them or misses them; it never mixes them with the new ones.
4. The old folder, now in ``compacting``, is deleted by ``finish_swap``, some seconds later: a
   reader that is listing it would otherwise find some files or none, and no error.

After a crash the next run finds a folder in ``compacting`` and finishes the work: nothing in it is
deleted before its windows are found in the dataset.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.errors import ConversionError, StocktraceError, StoreError
from stocktrace.store import files, lock
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.checksum import Content
from stocktrace.store.dataset import day_files, files_in_order, hash_windows
from stocktrace.store.footer import Windows, read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_file_name, day_number, is_day_file
from stocktrace.store.trade_file import (
    DATE_FORMAT,
    WINDOW_FORMAT,
    TradeFileReader,
    with_texts,
    write_trade_files,
)

# Larger files gain nothing, and cannot be sent to a lake or read in parallel as well.
MAX_BYTES = 1 << 28
# So many rows are sorted at a time, in about 100 MB.
_SORT_ROWS = 1 << 20
#: So long after a swap, the old folder is there for those who were listing it.
LISTING_S = 5.0


@dataclass(frozen=True, slots=True)
class CompactedDate:
    """A date that is in ``paths`` now, with ``rows`` trades that were in ``files`` files."""

    date: str
    paths: tuple[Path, ...]
    files: int
    rows: int
    size_before: int
    size: int


def compact_date(layout: Layout, date: str) -> CompactedDate | None:
    """Merge the files of a UTC date; ``None`` if they are merged already.

    The caller holds ``lock.compaction_lock``, and no process records that date any more. The old
    files are left to ``finish_swap``.

    Raises:
        ConversionError: A file is damaged, or two have the same window; nothing was changed.
    """
    finish_swap(layout, date)
    if is_compacted(layout, date):
        return None
    return replace_date(layout, date, files_in_order(layout.date_folder(date)))


def is_compacted(layout: Layout, date: str) -> bool:
    """Return whether the files of a date are merged, or it has none."""
    return all(map(is_day_file, files_in_order(layout.date_folder(date))))


def replace_date(layout: Layout, date: str, sources: Sequence[Path]) -> CompactedDate | None:
    """Replace all files of a date by one with the rows of ``sources``.

    Returns ``None`` if the files changed in the meantime: the next run compacts the date. The old
    files are left to ``finish_swap``.
    """
    finish_swap(layout, date)
    live, staged = layout.date_folder(date), layout.compaction_staging(date)
    before = _folder_state(live)
    number = _last_day_number(live) + 1
    windows = windows_of(sources)
    try:
        with files.disk_errors(staged):
            staged.mkdir(parents=True)
            written = write_day_files(sources, windows, staged, number)
            for path in written:
                files.sync_file(path)
            files.sync_file(staged)
            # Conversions share the lock on the dataset. With the exclusive lock, no file is being
            # published there, and none can appear between the check and the swap.
            with lock.lock_folder(layout.dataset, exclusive=True):
                unchanged = _folder_state(live) == before
                if unchanged:
                    files.swap_folders(staged, live)
                    files.sync_file(live.parent)
                    files.sync_file(staged.parent)
    except BaseException:
        with contextlib.suppress(StocktraceError, OSError):  # otherwise the next run does it
            finish_swap(layout, date, wait=False)
        raise
    if not unchanged:
        finish_swap(layout, date)
        return None
    return CompactedDate(
        date,
        tuple(live / path.name for path in written),
        len(before),
        sum(content.rows for content in windows.values()),
        sum(size for _, size, _ in before.values()),
        sum((live / path.name).stat().st_size for path in written),
    )


def write_day_files(
    sources: Sequence[Path], windows: dict[WindowId, Content], folder: Path, number: int
) -> list[Path]:
    """Merge ``sources``, which have ``windows``, into the files of a date, and check them.

    Raises:
        ConversionError: The rows of a source differ from its footer.
    """
    written = write_trade_files(
        (folder / day_file_name(number, part) for part in itertools.count(1)),
        merge_files(sources, windows),
        lambda: windows,
        rows=sum(content.rows for content in windows.values()),
        form=DATE_FORMAT,
        max_bytes=MAX_BYTES,
    )
    _check_written(written, windows)
    return written


def finish_swap(layout: Layout, date: str, *, wait: bool = True) -> bool:
    """Delete the folder of a date in ``compacting``; return whether it does not exist any more.

    That is a new folder that was never swapped, or the old one. The old one is deleted only when
    the dataset has all its windows, and ``LISTING_S`` after the swap; until then it is left there,
    or this function waits.

    Raises:
        StoreError: The dataset lacks a window of the old folder.
    """
    staged, live = layout.compaction_staging(date), layout.date_folder(date)
    if not staged.exists():
        return True
    if any(staged.iterdir()) and _last_day_number(staged) <= _last_day_number(live):
        _check_replaced(staged, live)
        # The swap changed it last. Whatever the wall clock did since, nobody waits longer.
        left_s = min(staged.stat().st_ctime + LISTING_S - time.time(), LISTING_S)
        if left_s > 0 and not wait:
            return False
        time.sleep(max(left_s, 0))
    with files.disk_errors(staged):
        shutil.rmtree(staged)
    return True


def _check_replaced(old: Path, live: Path) -> None:
    published = {window for path in files_in_order(live) for window in read_windows(path)}
    for path in files_in_order(old):
        try:
            windows = read_windows(path)
        except ConversionError:
            continue  # compaction stops at such a file: only a repair can have replaced it
        for window in windows:
            if window not in published:
                raise StoreError(
                    f"{path} has {window.stem}, but {live} does not: move the file there."
                )


def _last_day_number(folder: Path) -> int:
    """Return how often the date had been compacted when ``folder`` was made."""
    return max(map(day_number, day_files(folder)), default=0)


def _folder_state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of each file in a folder.

    Raises:
        StoreError: A file is not stocktrace's, and would be deleted with the folder.
    """
    state = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".parquet":
            raise StoreError(f"{path} is not a file of stocktrace: move it out of the data folder.")
        status = path.stat()
        state[path.name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return state


def windows_of(sources: Sequence[Path]) -> dict[WindowId, Content]:
    """Return the windows in ``sources``, by session and number.

    Raises:
        ConversionError: A window is in two files, or a file does not have the window of its name.
    """
    windows: dict[WindowId, Content] = {}
    days: set[int] = set()
    for path in sources:
        if is_day_file(path):
            if day_number(path) in days:
                continue  # a further file of the same date lists the same windows
            days.add(day_number(path))
        found = read_windows(path)
        if not is_day_file(path) and found.keys() != {WindowId.parse(path)}:
            raise ConversionError(f"The footer of {path} names another window.")
        for window in found.keys() & windows.keys():
            raise ConversionError(f"{path} has {window.stem} again: run `stocktrace verify`.")
        windows |= found
    return dict(sorted(windows.items(), key=lambda item: item[0].order))


def merge_files(sources: Sequence[Path], windows: dict[WindowId, Content]) -> Iterator[pa.Table]:
    """Yield the rows of files (``FILE_SCHEMA``) by ticker, then in the order of ``windows``.

    Memory is bounded: tickers are merged in ranges of about ``_SORT_ROWS`` rows. Of a ticker that
    has more, one window after another is read.
    """
    order = {(window.session, window.number): at for at, window in enumerate(windows)}
    with contextlib.ExitStack() as stack:
        readers = {path: stack.enter_context(TradeFileReader(path)) for path in sources}
        counts = Counter[str]()
        for reader in readers.values():
            counts.update(reader.count_trades())
        for tickers in split_tickers(counts, _SORT_ROWS):
            if len(tickers) == 1 and counts[tickers[0]] > _SORT_ROWS:
                yield from _read_window_by_window(readers, tickers[0], windows)
            else:
                tables = [reader.read(tickers=tickers) for reader in readers.values()]
                yield _sort(with_texts(tables, FILE_SCHEMA.names), order)


def copy_windows(sources: Sequence[Path], windows: Windows, path: Path) -> None:
    """Write the rows of some windows in files of one date into another file.

    Row groups that cannot be read are left out: they must not have rows of these windows.
    """
    numbers: dict[str, list[int]] = {}
    for window in windows:
        numbers.setdefault(window.session, []).append(window.number)

    def tables() -> Iterator[pa.Table]:
        for source in sources:
            with contextlib.suppress(ConversionError), TradeFileReader(source) as file:
                for batch in file.batches(lambda _: None):
                    mask = np.zeros(len(batch), np.bool_)
                    for session, values in numbers.items():
                        is_of_session = pc.equal(batch["session"], session)
                        is_of_window = pc.is_in(
                            batch["window_number"], pa.array(values, pa.int32())
                        )
                        mask |= pc.and_(is_of_session, is_of_window).to_numpy(zero_copy_only=False)
                    yield pa.Table.from_batches([batch.filter(pa.array(mask))])

    rows = sum(content.rows for content in windows.values())
    with files.disk_errors(path):
        write_trade_files([path], tables(), lambda: windows, rows=rows, form=WINDOW_FORMAT)


def split_tickers(counts: Mapping[str, int], rows: int) -> Iterator[list[str]]:
    """Yield the tickers, which have ``counts`` rows, in order, in lists of about ``rows`` rows."""
    tickers: list[str] = []
    total = 0
    for ticker, count in sorted(counts.items()):
        if tickers and total + count > rows:
            yield tickers
            tickers, total = [], 0
        tickers.append(ticker)
        total += count
    if tickers:
        yield tickers


def _read_window_by_window(
    readers: dict[Path, TradeFileReader], ticker: str, windows: Iterable[WindowId]
) -> Iterator[pa.Table]:
    for window in windows:
        bounds = {"window_number": (window.number, window.number + 1)}
        for path, reader in readers.items():
            if is_day_file(path) or WindowId.parse(path) == window:
                table = reader.read(tickers=[ticker], session=window.session, bounds=bounds)
                yield with_texts([table], FILE_SCHEMA.names)


def _sort(table: pa.Table, order: dict[tuple[str, int], int]) -> pa.Table:
    """Sort rows by ticker and window; those of one window keep their order."""
    symbols = table["symbol"].combine_chunks().dictionary_encode()
    ranks = np.argsort(np.argsort(symbols.dictionary.to_numpy(zero_copy_only=False)))
    windows = np.empty(len(table), np.int64)
    sessions = table["session"].combine_chunks().dictionary_encode()
    keys = sessions.indices.to_numpy().astype(np.int64) << 32 | table["window_number"].to_numpy()
    for key in np.unique(keys).tolist():
        windows[keys == key] = order[sessions.dictionary[key >> 32].as_py(), key & 0xFFFFFFFF]
    rows = np.lexsort((windows, ranks[symbols.indices.to_numpy()]))
    return table.take(pa.array(rows))


def _check_written(paths: Sequence[Path], windows: dict[WindowId, Content]) -> None:
    """Read files back and compare them, window by window, with what was to be written.

    Raises:
        ConversionError: They differ, and so a source differs from its footer.
    """
    written = hash_windows(paths)
    for window, content in windows.items():
        if written.pop(window, None) != content:
            raise ConversionError(
                f"The rows of {window.stem} do not match the hash in the footer of their file: "
                "run `stocktrace verify --repair`."
            )
    if written:
        raise ConversionError(f"{paths[0]} does not hold the rows that were to be written.")
