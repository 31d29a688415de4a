"""The source of published files: a data folder on this machine, or a lake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow.fs as pafs

from stocktrace.addresses import is_lake_url, parse_lake_url
from stocktrace.settings import Settings
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.store.lock import is_locked
from stocktrace.store.names import is_import, is_merge, is_session, tickers_in
from stocktrace.store.partition import files_in_order, partition_folders


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A data folder, for readers. All paths are in the file system ``files``."""

    layout: Layout
    files: ClassVar[pafs.FileSystem] = pafs.LocalFileSystem()

    def dates(self) -> list[str]:
        """Return the UTC dates that have published trades, sorted."""
        return self.layout.dates()

    def tickers(self, date: str) -> set[str]:
        """Return the tickers that have published trades of a date."""
        names = (path.name.removeprefix("symbol=") for path in partition_folders(self.layout, date))
        return set(tickers_in(names))

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """Yield the reports of all or the ``last`` so many sessions, the latest first."""
        for path in sorted(self.layout.sessions.glob("*.json"), reverse=True)[:last]:
            with contextlib.suppress(FileNotFoundError):  # deleted in the meantime
                yield path.read_bytes()

    def trade_files(self, ticker: str, date: str) -> list[str]:
        """Return the files of a ticker's date in reading order."""
        return [str(path) for path in files_in_order(self.layout.partition(ticker, date))]

    def coverage_files(self, date: str | None = None, session: str | None = None) -> list[str]:
        """Return the files of coverage, of one date and one session or of all, sorted."""
        paths = self.layout.root.glob(f"coverage/date={date or '*'}/{session or '*'}.parquet")
        return sorted(map(str, paths))

    def gap_fills(self) -> list[str]:
        """Return the files of ``gap_fills``, sorted, without those of imports that do not exist."""
        requests = self.layout.fill_requests
        return sorted(
            str(path)
            for path in requests.parent.glob("*.parquet")
            if path == requests or (is_session(path.stem) and self.layout.has(path.stem))
        )

    def running_sessions(self) -> list[str]:
        """Return the captures whose lock is held: their coverage is not written yet."""
        names = [path.stem for path in self.layout.sessions.glob("*.lock") if is_session(path.stem)]
        captures = [name for name in names if not (is_import(name) or is_merge(name))]
        return [name for name in captures if is_locked(self.layout.lock(name))]


#: A lake has the methods of a data folder.
DataSource = FolderSource | Lake


def open_source(data_dir: str | Path | None) -> DataSource:
    """Open a data folder or a lake; the default is the data folder of the settings.

    Raises:
        SettingsError: The URL of the lake is not valid.
        LakeError: The lake cannot be opened.
    """
    if isinstance(data_dir, str) and is_lake_url(data_dir):
        return Lake.open(parse_lake_url(data_dir))
    return FolderSource(
        Layout(Path(data_dir) if data_dir is not None else Settings.load().data_dir)
    )
