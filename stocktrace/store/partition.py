"""One folder ``date=…/symbol=…``: which windows its files hold, and which rows of which file.

Freshly converted windows are a file each; compaction makes one file of all that are there. The rows
of a window are a *piece* either way, and whoever counts or compares asks for pieces. Their order is
that of the sessions' names, then of the windows': the sessions by when they began, the windows of
each as they were recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from stocktrace.errors import ConversionError
from stocktrace.store import footer
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, decode_ticker, is_day_file, reading_order
from stocktrace.store.row_ranges import RowRangeReader

# Compaction takes the files away between a listing and its reading at most once a day.
_TRIES = 5
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class WindowRows:
    """The rows of one window: ``rows`` of ``path`` from ``offset`` on, whose hash is ``content``.

    So the footer tells; only reading the rows proves it. ``size`` is their share of its bytes.
    """

    part: WindowId
    path: Path
    offset: int
    rows: int
    content: str
    size: int

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its rows, from the file that is opened for it.

        Raises:
            ConversionError: they cannot be read, or are not there.
        """
        with RowRangeReader(self.path) as file:
            yield from file.rows(self.offset, self.rows)


def list_window_rows(folder: Path, session: str | None = None) -> list[WindowRows]:
    """What a folder holds (of one session), in order.

    Raises:
        ConversionError: a file has no footer, or not one of ours.
        LayoutError: a file is none of stocktrace's.
    """
    return retry_on_compaction(lambda: _list_window_rows(folder, session))


def find_in_day_file(layout: Layout, ticker: str, part: WindowId) -> WindowRows | None:
    """The rows of a ticker's window in the file of the day, if they are there."""
    folder = layout.partition(ticker, part.date)

    def found() -> WindowRows | None:
        held = (piece for path in day_files(folder) for piece in window_rows_in(path))
        return next((piece for piece in held if piece.part == part), None)

    return retry_on_compaction(found)


def session_rows(
    layout: Layout, session: str, dates: Iterable[str]
) -> Iterator[tuple[str, WindowRows]]:
    """The published pieces of a session that lie under ``dates``, each with its ticker."""
    for date in sorted(dates):
        for folder in partition_folders(layout, date):
            for piece in list_window_rows(folder, session):
                yield partition_ticker(folder), piece


def partition_folders(layout: Layout, date: str = "*") -> list[Path]:
    """The folders of tickers, of one date or of all, sorted."""
    return sorted(layout.dataset.glob(f"date={date}/symbol=[!~]*"))


def partition_ticker(folder: Path) -> str:
    """The ticker whose trades a folder holds."""
    return decode_ticker(folder.name.removeprefix("symbol="))


def partition_date(path: Path) -> str:
    """The UTC date of a folder that holds trades, or of a file that holds coverage."""
    return path.parent.name.removeprefix("date=")


def day_files(folder: Path) -> list[Path]:
    """The compacted files of a folder: one, or none."""
    return sorted(path for path in folder.glob("day-*.parquet") if is_day_file(path))


def files_in_order(folder: Path) -> list[Path]:
    """The files of a folder in the order in which to read them: the day's, then late windows."""
    return sorted(folder.glob("*.parquet"), key=reading_order)


def retry_on_compaction(read: Callable[[], _Found]) -> _Found:
    """``read``, again if a compaction took away a file that it had listed."""
    for _ in range(_TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _list_window_rows(folder: Path, session: str | None) -> list[WindowRows]:
    found = []
    for path in files_in_order(folder):
        # The name of a window's file tells the session; many need not be opened.
        if session is None or is_day_file(path) or WindowId.parse(path).session == session:
            found += [each for each in window_rows_in(path) if session in (None, each.part.session)]
    return sorted(found, key=lambda piece: (piece.part.session, piece.part.window))


def window_rows_in(path: Path) -> list[WindowRows]:
    """What one published file holds, in the order of its rows.

    Raises:
        ConversionError: it has no footer, or not one of ours.
        LayoutError: it is none of stocktrace's.
        FileNotFoundError: it is not there (any more).
    """
    told, size = footer.read_footer(path), path.stat().st_size
    total = int(told["rows"])
    if not is_day_file(path):
        return [WindowRows(WindowId.parse(path), path, 0, total, told.get("content", ""), size)]
    try:
        parts = footer.parse_windows(told["parts"])
    except (KeyError, ValueError) as error:
        raise ConversionError(f"{path} does not tell what it is made of: {error}.") from error
    if sum(rows for _, rows, _ in parts) != total:
        raise ConversionError(f"{path} has {total} rows, but tells of others.")
    ends = accumulate(rows for _, rows, _ in parts)
    return [
        WindowRows(part, path, end - rows, rows, content, size * rows // (total or 1))
        for (part, rows, content), end in zip(parts, ends, strict=True)
    ]


def find_window_rows(layout: Layout, ticker: str, part: WindowId) -> WindowRows | None:
    """The published rows of a ticker's window, in a file of their own or in that of the day."""
    own = layout.parquet(ticker, part)
    return window_rows_in(own)[0] if own.exists() else find_in_day_file(layout, ticker, part)


class WindowRowsReader:
    """Reads pieces, and keeps the last file open: the pieces of one mostly follow one another."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file = contextlib.ExitStack()
        self._slices: RowRangeReader | None = None

    def rows(self, piece: WindowRows) -> Iterator[pa.RecordBatch]:
        """The rows of ``piece``."""
        return self._of(piece).rows(piece.offset, piece.rows)

    def head(self, piece: WindowRows, count: int) -> pa.Table:
        """Its first rows, at most ``count``."""
        return self._of(piece).head(piece.offset, min(count, piece.rows))

    def _of(self, piece: WindowRows) -> RowRangeReader:
        if self._slices is None or self._path != piece.path:
            self.close()
            self._slices = self._file.enter_context(RowRangeReader(piece.path))
            self._path = piece.path
        return self._slices

    def close(self) -> None:
        """Close the file."""
        self._file.close()
