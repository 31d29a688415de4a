"""Where published files are read from: a data folder of this machine, or a lake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow.fs as pafs

from stocktrace.settings import Settings, is_lake_url, parse_lake_url
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.store.lock import is_locked
from stocktrace.store.names import is_import, is_merge, is_session, tickers_in
from stocktrace.store.partition import files_in_order, partition_folders

_LOCAL = pafs.LocalFileSystem()


class DataSource(Protocol):
    """What readers ask of the place that they read from; all paths are of ``files``."""

    @property
    def files(self) -> pafs.FileSystem:
        """The file system."""

    def dates(self) -> list[str]:
        """The UTC dates that something is published of, sorted."""

    def tickers(self, date: str) -> set[str]:
        """The tickers that something is published of on a date."""

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """The reports of the last so many sessions, or of all, the latest first."""

    def trade_files(self, ticker: str, date: str) -> list[str]:
        """The files of a ticker's date, in the order in which to read them."""

    def coverage_files(self, date: str | None = None, session: str | None = None) -> list[str]:
        """The files of coverage, of one date and one session or of all, sorted."""

    def gap_fills(self) -> list[str]:
        """The files that tell of repairs of gaps, sorted."""

    def running_sessions(self) -> list[str]:
        """The sessions that go on, whose coverage is still to come."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A data folder."""

    layout: Layout

    @property
    def files(self) -> pafs.FileSystem:
        """See ``Shelf``."""
        return _LOCAL

    def dates(self) -> list[str]:
        """See ``Shelf``."""
        return self.layout.dates()

    def tickers(self, date: str) -> set[str]:
        """See ``Shelf``."""
        names = (path.name.removeprefix("symbol=") for path in partition_folders(self.layout, date))
        return set(tickers_in(names))

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """See ``Shelf``."""
        for path in sorted(self.layout.sessions.glob("*.json"), reverse=True)[:last]:
            with contextlib.suppress(FileNotFoundError):  # taken back in the meantime
                yield path.read_bytes()

    def trade_files(self, ticker: str, date: str) -> list[str]:
        """See ``Shelf``."""
        return [str(path) for path in files_in_order(self.layout.partition(ticker, date))]

    def coverage_files(self, date: str | None = None, session: str | None = None) -> list[str]:
        """See ``Shelf``."""
        found = self.layout.root.glob(f"coverage/date={date or '*'}/{session or '*'}.parquet")
        return sorted(map(str, found))

    def gap_fills(self) -> list[str]:
        """See ``Shelf``; a file whose import is not here, or was taken back, tells nothing."""
        layout = self.layout
        found = [
            path for path in layout.fill_requests.parent.glob("*.parquet") if is_session(path.stem)
        ]
        told = [str(path) for path in found if layout.has(path.stem)]
        return sorted(
            [*told, *([str(layout.fill_requests)] if layout.fill_requests.exists() else [])]
        )

    def running_sessions(self) -> list[str]:
        """See ``Shelf``; their locks tell."""
        names = [path.stem for path in self.layout.sessions.glob("*.lock") if is_session(path.stem)]
        captures = [name for name in names if not (is_import(name) or is_merge(name))]
        return [name for name in captures if is_locked(self.layout.lock(name))]


def open_source(data_dir: str | Path | None) -> DataSource:
    """The data folder or lake to read from; default is the data folder of the settings.

    Raises:
        SettingsError: that is no URL of a lake.
        LakeError: it cannot be opened.
    """
    if isinstance(data_dir, str) and is_lake_url(data_dir):
        return Lake.open(parse_lake_url(data_dir))
    return FolderSource(
        Layout(Path(data_dir) if data_dir is not None else Settings.load().data_dir)
    )
