"""One folder ``date=…/symbol=…``: which windows its files hold, and which rows of which file.

A converted window is a file of its own until compaction merges all files of the folder into one.
Callers ask for the rows of windows (``WindowRows``) and need not know which it is. Windows are
ordered by session, sessions by when they began.

A footer or rows that cannot be read are a ``ConversionError``, a file whose name is not one of
stocktrace's is a ``LayoutError``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self, TypeVar

import pyarrow as pa

from stocktrace.store import footer
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, decode_ticker, is_day_file, reading_order
from stocktrace.store.parquet import RowRangeReader

# Compaction removes files between a listing and its reading at most once a day.
_ATTEMPTS = 5
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class WindowRows:
    """The rows of one window: ``rows`` of ``path`` from ``offset`` on, whose hash is ``content``.

    This is what the footer says; only reading the rows proves it. ``size`` is their share of the
    file's bytes.
    """

    part: WindowId
    path: Path
    offset: int
    rows: int
    content: str
    size: int

    def read(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows; the file is opened for them."""
        with RowRangeReader(self.path) as file:
            yield from file.rows(self.offset, self.rows)


def list_window_rows(folder: Path, session: str | None = None) -> list[WindowRows]:
    """Return the windows (of one session) in a folder, in order."""

    def read() -> Iterator[WindowRows]:
        for path in files_in_order(folder):
            # A window's file has the session in its name: most need not be opened.
            if session is None or is_day_file(path) or WindowId.parse(path).session == session:
                yield from window_rows_in(path)

    windows = retry_on_compaction(lambda: list(read()))
    chosen = (rows for rows in windows if session in (None, rows.part.session))
    return sorted(chosen, key=lambda rows: (rows.part.session, rows.part.window))


def window_rows_in(path: Path) -> list[WindowRows]:
    """Return the windows in one published file, in the order of its rows.

    Raises:
        FileNotFoundError: The file does not exist (any more).
    """
    windows, size = footer.list_windows(path, footer.read_footer(path)), path.stat().st_size
    ends = list(accumulate(rows for _, rows, _ in windows))
    return [
        WindowRows(window, path, end - rows, rows, content, size * rows // (ends[-1] or 1))
        for (window, rows, content), end in zip(windows, ends, strict=True)
    ]


def find_window_rows(layout: Layout, ticker: str, window: WindowId) -> WindowRows | None:
    """Find the published rows of a ticker's window, in its own file or in that of the day."""
    own = layout.parquet(ticker, window)
    return window_rows_in(own)[0] if own.exists() else find_in_day_file(layout, ticker, window)


def find_in_day_file(layout: Layout, ticker: str, window: WindowId) -> WindowRows | None:
    """Find the rows of a ticker's window in the compacted file of the day."""
    folder = layout.partition(ticker, window.date)

    def find() -> WindowRows | None:
        all_rows = (rows for path in day_files(folder) for rows in window_rows_in(path))
        return next((rows for rows in all_rows if rows.part == window), None)

    return retry_on_compaction(find)


def session_rows(
    layout: Layout, session: str, dates: Iterable[str]
) -> Iterator[tuple[str, WindowRows]]:
    """Yield ``(ticker, rows)`` of the published windows of a session under ``dates``."""
    for date in sorted(dates):
        for folder in partition_folders(layout, date):
            for rows in list_window_rows(folder, session):
                yield partition_ticker(folder), rows


def partition_folders(layout: Layout, date: str = "*") -> list[Path]:
    """Return the folders of tickers, of one date or of all, sorted."""
    return sorted(layout.dataset.glob(f"date={date}/symbol=[!~]*"))


def partition_ticker(folder: Path) -> str:
    """Return the ticker whose trades a folder holds."""
    return decode_ticker(folder.name.removeprefix("symbol="))


def partition_date(path: Path) -> str:
    """Return the UTC date of a folder that holds trades, or of a file that holds coverage."""
    return path.parent.name.removeprefix("date=")


def day_files(folder: Path) -> list[Path]:
    """Return the compacted files of a folder: one, or none."""
    return sorted(path for path in folder.glob("day-*.parquet") if is_day_file(path))


def files_in_order(folder: Path) -> list[Path]:
    """Return the files of a folder in reading order: the day's, then late windows."""
    return sorted(folder.glob("*.parquet"), key=reading_order)


def retry_on_compaction(read: Callable[[], _T]) -> _T:
    """Call ``read``; again if compaction removed a file that it had listed."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return read()
    return read()


class WindowRowsReader:
    """Reads the rows of windows; a context manager.

    It keeps the last file open, because consecutive windows are mostly in the same file.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._open = contextlib.ExitStack()
        self._file: RowRangeReader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def rows(self, window: WindowRows) -> Iterator[pa.RecordBatch]:
        """Yield the rows of ``window``."""
        return self._reader(window).rows(window.offset, window.rows)

    def head(self, window: WindowRows, count: int) -> pa.Table:
        """Return the first rows of ``window``, at most ``count``."""
        return self._reader(window).head(window.offset, min(count, window.rows))

    def _reader(self, window: WindowRows) -> RowRangeReader:
        if self._file is None or self._path != window.path:
            self._open.close()
            self._file = self._open.enter_context(RowRangeReader(window.path))
            self._path = window.path
        return self._file
