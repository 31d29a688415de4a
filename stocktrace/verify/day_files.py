"""Check the rows of a session in compacted day files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.store import footer, partition
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.parquet import RowRangeReader

WRONG_STATISTICS = "its footer has wrong statistics, which make readers skip rows"


@dataclass(slots=True)
class DayFiles:
    """The windows of one session in the day files of ``dates``, read once for all windows.

    ``damaged`` are files whose footers cannot be read, and why.
    """

    layout: Layout
    session: str
    dates: set[str]
    windows: dict[WindowId, dict[str, partition.WindowRows]] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)
    #: The hashes of the windows in each file; ``None`` for a file whose problem was reported.
    _contents: dict[Path, dict[WindowId, str] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """List the files again, after some were rebuilt."""
        self.windows, self.damaged = {}, {}
        for date in sorted(self.dates):
            for folder in partition.partition_folders(self.layout, date):
                for path in partition.day_files(folder):
                    self._add(path)

    def _add(self, path: Path) -> None:
        try:
            for piece in partition.window_rows_in(path):
                if piece.part.session == self.session:
                    ticker = partition.partition_ticker(path.parent)
                    self.windows.setdefault(piece.part, {})[ticker] = piece
        except ConversionError as error:
            self.damaged[path] = str(error)

    def is_broken(self, ticker: str, part: WindowId) -> bool:
        """Return True if the day file that may have a window is damaged."""
        folder = self.layout.partition(ticker, part.date)
        return any(path.parent == folder for path in self.damaged)

    def of_part(self, part: WindowId) -> dict[str, partition.WindowRows]:
        """Return the rows of a window, by ticker."""
        return self.windows.get(part, {})

    def problem(self, piece: partition.WindowRows, wanted: str | None = None) -> str | None:
        """Describe what is wrong with rows whose hash should be ``wanted`` or the footer's."""
        path = piece.path
        if path not in self._contents:
            try:
                self._contents[path] = _read_contents(path)
            except ConversionError as error:
                self._contents[path] = None
                return str(error)
            if footer.has_wrong_statistics(path):
                self._contents[path] = None
                return WRONG_STATISTICS
        contents = self._contents[path]
        if contents is None:
            return None
        if contents[piece.part] != (wanted or piece.content):
            return f"has other trades of window {piece.part.stem} ({piece.rows:,})"
        if piece.content != (wanted or piece.content):
            return f"its footer does not match the content of window {piece.part.stem}"
        return None


def _read_contents(path: Path) -> dict[WindowId, str]:
    with RowRangeReader(path) as file:
        return {
            piece.part: content_hash(file.rows(piece.offset, piece.rows)).hexdigest()
            for piece in partition.window_rows_in(path)
        }
