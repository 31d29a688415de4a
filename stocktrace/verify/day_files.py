"""What of a session stands in the files of days, and whether its rows there are right."""

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


@dataclass(slots=True)
class DayFiles:
    """The windows of one session in files of ``dates``, read once for all windows.

    ``broken`` are files that do not tell what they hold, and why.
    """

    layout: Layout
    session: str
    dates: set[str]
    windows: dict[WindowId, dict[str, WindowRows]] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)
    _found: dict[Path, dict[WindowId, str]] = field(default_factory=dict)
    _wrong: dict[Path, str | None] = field(default_factory=dict)
    _reported: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """See which files there are (now that some were mended)."""
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
        """Whether the file that may hold a window tells of none."""
        folder = self.layout.partition(ticker, part.date)
        return any(path.parent == folder for path in self.damaged)

    def of_part(self, part: WindowId) -> dict[str, WindowRows]:
        """The rows of a window, by ticker."""
        return self.windows.get(part, {})

    def problem(self, piece: WindowRows, wanted: str | None = None) -> str | None:
        """What is wrong with a piece, whose hash should be ``wanted`` or what the footer tells."""
        path = piece.path
        if path not in self._wrong:
            self._wrong[path] = self._read(path)
        if (wrong := self._wrong[path]) is not None:
            told = path in self._reported
            self._reported.add(path)
            return None if told else wrong  # once, for all its windows
        if self._found[path][piece.part] != (wanted or piece.content):
            return f"holds other trades of window {piece.part.stem}, {piece.rows} of them"
        if piece.content != (wanted or piece.content):
            return f"its footer does not tell the content of window {piece.part.stem}"
        return None

    def _read(self, path: Path) -> str | None:
        try:
            with RowRangeReader(path) as file:
                self._found[path] = {
                    piece.part: content_hash(file.rows(piece.offset, piece.rows)).hexdigest()
                    for piece in window_rows_in(path)
                }
        except ConversionError as error:
            return str(error)
        if footer.has_wrong_statistics(path):
            return "its footer has wrong statistics, by which readers pass over rows"
        return None


def misplaced_rows(layout: Layout, path: Path) -> Iterator[str]:
    """What readers would take wrongly, though the file may be right by itself."""
    try:
        held = {piece.part for piece in window_rows_in(path)}
    except ConversionError as error:
        yield str(error)
        return
    date = partition_date(path.parent)
    if path.parent != layout.partition(partition_ticker(path.parent), date) or any(
        part.date != date for part in held
    ):
        yield "is not where it belongs: remove it"
    for other in sorted(path.parent.glob("*.parquet")):
        if other != path and not held.isdisjoint(_windows_in(other)):
            yield f"holds trades that {other.name} holds, too: remove one of them"


def _windows_in(path: Path) -> set[WindowId]:
    try:
        return (
            {piece.part for piece in window_rows_in(path)}
            if is_day_file(path)
            else {WindowId.parse(path)}
        )
    except (ConversionError, LayoutError):
        return set()  # it is told of for itself


def sessions_in_days(layout: Layout) -> set[tuple[str, str]]:
    """The sessions that files of days tell of, each with the UTC date under which the file lies."""
    found = set()
    for folder in partition_folders(layout):
        for path in day_files(folder):
            with contextlib.suppress(ConversionError):
                found |= {
                    (piece.part.session, partition_date(folder)) for piece in window_rows_in(path)
                }
    return found
