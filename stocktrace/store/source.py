"""The source of published files: a data folder on this machine, or a lake."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.fs as pafs

from stocktrace.addresses import is_lake_url, parse_lake_url
from stocktrace.settings import Settings
from stocktrace.store.dataset import files_in_order, retry_on_compaction
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.store.lock import is_locked
from stocktrace.store.names import is_import, is_merge, is_session
from stocktrace.store.parquet import SourceFile
from stocktrace.store.trade_file import Bounds, TradeFileReader, with_texts


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A data folder, for readers. All paths are in the file system ``files``."""

    layout: Layout
    files: ClassVar[pafs.FileSystem] = pafs.LocalFileSystem()

    def dates(self) -> list[str]:
        """Return the UTC dates that have published trades, sorted."""
        return self.layout.dates()

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """Yield the reports of all or the ``last`` so many sessions, the latest first."""
        for path in sorted(self.layout.sessions.glob("*.json"), reverse=True)[:last]:
            with contextlib.suppress(FileNotFoundError):  # deleted in the meantime
                yield path.read_bytes()

    def trade_files(self, date: str) -> list[SourceFile]:
        """Return the files of a date in reading order."""
        return [SourceFile(str(path)) for path in files_in_order(self.layout.date_folder(date))]

    def coverage_files(
        self, dates: Iterable[str] | None = None, session: str | None = None
    ) -> list[SourceFile]:
        """Return the files of coverage, of some dates and one session or of all, sorted."""
        paths = [
            path
            for date in (("*",) if dates is None else dates)
            for path in self.layout.root.glob(f"coverage/date={date}/{session or '*'}.parquet")
        ]
        return [SourceFile(path) for path in sorted(map(str, paths))]

    def gap_fills(self) -> list[str]:
        """Return the files of ``gap_fills``, sorted, without those of imports that do not exist."""
        requests = self.layout.fill_requests
        return sorted(
            str(path)
            for path in requests.parent.glob("*.parquet")
            if path == requests or (is_session(path.stem) and self.layout.has(path.stem))
        )

    def running_sessions(
        self, begin: datetime, end: datetime, ended: Collection[str] = ()
    ) -> list[str]:
        """Return the captures that run: their coverage is not written yet.

        They are needed for a time from ``begin`` to ``end``; those that have ``ended`` are not
        looked at.
        """
        del begin, end  # a lock is looked at in no time
        names = [path.stem for path in self.layout.sessions.glob("*.lock") if is_session(path.stem)]
        captures = [name for name in names if not (is_import(name) or is_merge(name))]
        return [
            name for name in captures if name not in ended and is_locked(self.layout.lock(name))
        ]


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


def read_rows(
    source: DataSource,
    dates: Iterable[str],
    columns: Sequence[str],
    *,
    tickers: Collection[str] = (),
    session: str = "",
    bounds: Bounds | None = None,
) -> pa.Table:
    """Read the published rows of ``dates`` that match (``TradeFileReader.read``), in reading order.

    Raises:
        ConversionError: A file is damaged.
    """

    def read(date: str) -> list[pa.Table]:
        tables = []
        for file in source.trade_files(date):
            with TradeFileReader(file.path, source.files, file.size) as reader:
                table = reader.read(columns, tickers=tickers, session=session, bounds=bounds)
                tables.append(table)
        return tables

    tables = (table for date in dates for table in retry_on_compaction(partial(read, date)))
    return with_texts([table for table in tables if len(table)], columns)


def read_last_rows(
    source: DataSource,
    dates: Sequence[str],
    columns: Sequence[str],
    count: int,
    *,
    tickers: Collection[str] = (),
    bounds: Bounds | None = None,
) -> pa.Table:
    """Read the last ``count`` rows of those that ``read_rows`` returns, and little before them.

    Raises:
        ConversionError: A file is damaged.
    """

    def read(date: str, count: int) -> list[pa.Table]:
        tables: list[pa.Table] = []
        for file in reversed(source.trade_files(date)):
            missing = count - sum(map(len, tables))
            if missing <= 0:
                break
            with TradeFileReader(file.path, source.files, file.size) as reader:
                tables.append(reader.read_last(missing, columns, tickers=tickers, bounds=bounds))
        return tables

    tables: list[pa.Table] = []
    for date in reversed(dates):
        missing = count - sum(map(len, tables))
        if missing <= 0:
            break
        tables += retry_on_compaction(partial(read, date, missing))
    return with_texts(tables[::-1], columns)


def tickers_of_date(source: DataSource, date: str) -> set[str]:
    """Return the tickers that have published trades of a date.

    Raises:
        ConversionError: A file is damaged.
    """

    def read() -> set[str]:
        tickers: set[str] = set()
        for file in source.trade_files(date):
            with TradeFileReader(file.path, source.files, file.size) as reader:
                tickers |= reader.count_trades().keys()
        return tickers

    return retry_on_compaction(read)
