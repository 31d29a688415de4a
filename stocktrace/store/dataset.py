"""The published files of a UTC date, and which windows they hold.

A window is published as a file of its own, until compaction merges all files of the date into
``day-<n>.parquet`` (and ``day-<n>-002.parquet`` … if that is large). Callers ask for the rows of a
window (``PublishedRows``) and need not know which it is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from stocktrace.errors import ConversionError
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.checksum import Content, ContentHash
from stocktrace.store.footer import read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file, reading_order
from stocktrace.store.trade_file import Bounds, TradeFileReader, count_tickers, with_texts

# Compaction removes files between a listing and its reading at most once a day.
_ATTEMPTS = 5
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PublishedRows:
    """The published rows of one window: its own file, or some rows of the date's files.

    ``content`` is what the footer says; only reading the rows proves it.
    """

    window: WindowId
    paths: tuple[Path, ...]
    content: Content

    @property
    def is_compacted(self) -> bool:
        """Return whether other windows are in the same files."""
        return is_day_file(self.paths[0])

    def count_trades(self) -> Counter[str]:
        """Return the number of rows of each ticker.

        Raises:
            ConversionError: The rows cannot be read.
        """
        counts: Counter[str] = Counter()
        for path in self.paths:
            with TradeFileReader(path) as file:
                table = file.read(["symbol"], session=self.window.session, bounds=self._bounds)
            counts.update(count_tickers(table))
        return counts

    @property
    def _bounds(self) -> Bounds:
        return {"window_number": (self.window.number, self.window.number + 1)}

    def read(self, tickers: Collection[str] = ()) -> Iterator[pa.Table]:
        """Yield the rows (of ``tickers``), one table for each file.

        Raises:
            ConversionError: The rows cannot be read.
        """
        for path in self.paths:
            with TradeFileReader(path) as file:
                table = file.read(tickers=tickers, session=self.window.session, bounds=self._bounds)
            yield with_texts([table], FILE_SCHEMA.names)


def find_published(layout: Layout, window: WindowId) -> PublishedRows | None:
    """Find the published rows of a window, in its own file or in those of the date.

    Raises:
        ConversionError: The footer of a file cannot be read.
    """
    own = layout.window_file(window)

    def find() -> PublishedRows | None:
        paths = (own,) if own.exists() else day_files(layout.date_folder(window.date))
        content = read_windows(paths[0]).get(window) if paths else None
        return PublishedRows(window, paths, content) if content is not None else None

    return retry_on_compaction(find)


def list_published(
    layout: Layout, dates: Iterable[str], session: str | None = None
) -> dict[WindowId, PublishedRows]:
    """Return the published windows (of one session) of some dates, in reading order.

    Only the files of these dates that can have windows of the session are opened.

    Raises:
        ConversionError: The footer of a file cannot be read.
        LayoutError: The name of a file is not one of stocktrace's.
    """

    def list_date(date: str) -> dict[WindowId, PublishedRows]:
        compacted = day_files(layout.date_folder(date))
        others = ((path,) for path in window_files(layout, date, session))
        return {
            window: PublishedRows(window, paths, content)
            for paths in filter(None, (compacted, *others))
            for window, content in read_windows(paths[0]).items()
            if session in (None, window.session)
        }

    published: dict[WindowId, PublishedRows] = {}
    for date in sorted(dates):
        published |= retry_on_compaction(lambda date=date: list_date(date))  # type: ignore[misc]
    return published


def window_files(layout: Layout, date: str, session: str | None = None) -> list[Path]:
    """Return the files of windows (of one session) that are not compacted, in order."""
    pattern = f"{session}-*.parquet" if session else "[0-9]*.parquet"
    return sorted(_list_folder(layout.date_folder(date), pattern), key=reading_order)


def day_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a compacted date: none if it is not compacted yet."""
    paths = filter(is_day_file, _list_folder(folder, "day-*.parquet"))
    return tuple(sorted(paths, key=reading_order))


def files_in_order(folder: Path) -> list[Path]:
    """Return the files of a date in reading order: the compacted ones, then late windows."""
    return sorted(_list_folder(folder, "*.parquet"), key=reading_order)


def _list_folder(folder: Path, pattern: str) -> list[Path]:
    """List files of a date; again if compaction replaced the folder in the meantime.

    The old folder can be emptied while it is listed, and then seems to have fewer files.
    """
    while True:
        before = _inode(folder)
        paths: list[Path] = []
        with contextlib.suppress(FileNotFoundError):
            paths = [path for path in folder.iterdir() if fnmatch(path.name, pattern)]
        if _inode(folder) == before:
            return paths


def _inode(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return 0


def hash_windows(
    paths: Iterable[Path], on_damage: Callable[[Path, ConversionError], None] | None = None
) -> dict[WindowId, Content]:
    """Read files of trades and return what they hold of each window.

    The windows' names are those of the footers; rows of other windows have a window named after
    their number. ``on_damage`` is called for what cannot be read, which is left out.

    Raises:
        ConversionError: The rows or the footer cannot be read.
    """
    names: dict[tuple[str, int], WindowId] = {}
    hashes: dict[tuple[str, int], ContentHash] = {}
    for path in paths:
        try:
            names |= {(window.session, window.number): window for window in read_windows(path)}
            with TradeFileReader(path) as file:
                for batch in file.batches(on_damage and partial(on_damage, path)):
                    for key, rows in split_windows(batch):
                        hashes.setdefault(key, ContentHash()).update(rows)
        except ConversionError as error:
            if on_damage is None:
                raise
            on_damage(path, error)
    return {
        names.get(key, WindowId(key[0], f"_{key[1]:05}")): content.content()
        for key, content in hashes.items()
    }


def split_windows(batch: pa.RecordBatch) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """Yield each ``(session, window number)`` and its rows (``FILE_SCHEMA``), in their order."""
    sessions = batch["session"].dictionary_encode()
    numbers = batch["window_number"].to_numpy()
    keys = sessions.indices.to_numpy().astype(np.int64) << 32 | numbers
    order = np.argsort(keys, kind="stable")
    distinct, begins = np.unique(keys[order], return_index=True)
    rows = batch if len(distinct) == 1 else batch.take(pa.array(order))
    for key, begin, end in zip(
        distinct.tolist(), begins.tolist(), [*begins[1:].tolist(), len(keys)], strict=True
    ):
        session = sessions.dictionary[key >> 32].as_py()
        yield (session, key & 0xFFFFFFFF), rows.slice(begin, end - begin)


def retry_on_compaction(read: Callable[[], _T]) -> _T:
    """Call ``read``; again if compaction removed a file that it had listed."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return read()
    return read()
