"""Check the rows of a session in compacted day files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import ConversionError, LayoutError
from stocktrace.store import footer
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file
from stocktrace.store.parquet import RowRangeReader
from stocktrace.store.partition import (
    WindowRows,
    day_files,
    partition_date,
    partition_folders,
    partition_ticker,
    window_rows_in,
)

WRONG_STATISTICS = "its footer has wrong statistics, which make readers skip rows"


@dataclass(slots=True)
class DayFiles:
    """The windows of one session in the day files of ``dates``, read once for all windows.

    ``damaged`` are files whose footers cannot be read, and why.
    """

    layout: Layout
    session: str
    dates: set[str]
    windows: dict[WindowId, dict[str, WindowRows]] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)
    _contents: dict[Path, dict[WindowId, str]] = field(default_factory=dict)
    _problems: dict[Path, str | None] = field(default_factory=dict)
    _reported: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """List the files again, after some were rebuilt."""
        self.windows, self.damaged = {}, {}
        for date in sorted(self.dates):
            for folder in partition_folders(self.layout, date):
                for path in day_files(folder):
                    self._add(path)

    def _add(self, path: Path) -> None:
        try:
            for piece in window_rows_in(path):
                if piece.part.session == self.session:
                    self.windows.setdefault(piece.part, {})[partition_ticker(path.parent)] = piece
        except ConversionError as error:
            self.damaged[path] = str(error)

    def is_broken(self, ticker: str, part: WindowId) -> bool:
        """Return True if the day file that may have a window is damaged."""
        folder = self.layout.partition(ticker, part.date)
        return any(path.parent == folder for path in self.damaged)

    def of_part(self, part: WindowId) -> dict[str, WindowRows]:
        """Return the rows of a window, by ticker."""
        return self.windows.get(part, {})

    def problem(self, piece: WindowRows, wanted: str | None = None) -> str | None:
        """Describe what is wrong with rows whose hash should be ``wanted`` or the footer's."""
        path = piece.path
        if path not in self._problems:
            self._problems[path] = self._read(path)
        if (problem := self._problems[path]) is not None:
            is_known = path in self._reported
            self._reported.add(path)
            return None if is_known else problem  # once, for all its windows
        if self._contents[path][piece.part] != (wanted or piece.content):
            return f"has other trades of window {piece.part.stem} ({piece.rows:,})"
        if piece.content != (wanted or piece.content):
            return f"its footer does not match the content of window {piece.part.stem}"
        return None

    def _read(self, path: Path) -> str | None:
        try:
            with RowRangeReader(path) as file:
                self._contents[path] = {
                    piece.part: content_hash(file.rows(piece.offset, piece.rows)).hexdigest()
                    for piece in window_rows_in(path)
                }
        except ConversionError as error:
            return str(error)
        if footer.has_wrong_statistics(path):
            return WRONG_STATISTICS
        return None


def misplaced_rows(layout: Layout, path: Path) -> Iterator[str]:
    """Describe why readers would return wrong trades although the file may be intact."""
    try:
        windows = {piece.part for piece in window_rows_in(path)}
    except ConversionError as error:
        yield str(error)
        return
    date = partition_date(path.parent)
    if path.parent != layout.partition(partition_ticker(path.parent), date) or any(
        part.date != date for part in windows
    ):
        yield "is in the wrong folder: remove it"
    for other in sorted(path.parent.glob("*.parquet")):
        if other != path and not windows.isdisjoint(_windows_in(other)):
            yield f"has trades that {other.name} has too: remove one of the files"


def _windows_in(path: Path) -> set[WindowId]:
    try:
        return (
            {piece.part for piece in window_rows_in(path)}
            if is_day_file(path)
            else {WindowId.parse(path)}
        )
    except (ConversionError, LayoutError):
        return set()  # it has a finding of its own


def sessions_in_days(layout: Layout) -> set[tuple[str, str]]:
    """The sessions in day files, each with the UTC date of the file's folder."""
    sessions = set()
    for folder in partition_folders(layout):
        for path in day_files(folder):
            with contextlib.suppress(ConversionError):
                sessions |= {
                    (piece.part.session, partition_date(folder)) for piece in window_rows_in(path)
                }
    return sessions
