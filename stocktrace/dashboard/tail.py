"""Follows a session while it is recorded, and reads every row exactly once, wherever it is stored.

The windows of a ticker are read one after another; one that is rebuilt from its tape may appear
late. An open window is read up to its last complete line. When it is sealed (``.csv``) or
published, its remaining rows are read and it is done. If the CSV is already deleted, they are read
from Parquet behind the rows that were read before: both hold the same rows in the same order.

    list CSV ─▶ list Parquet ─▶ unchanged in between? ─▶ read the next window, and the next

The order of listing matters: a window is in Parquet before its CSV is deleted, so a window that
moves between the two listings is in both. A window that appeared and moved between them has
changed the folder of CSVs, and everything is listed again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from stocktrace.clock import Deadline
from stocktrace.dashboard.rows import TickerRows
from stocktrace.sessions.report import SessionReport
from stocktrace.store.dataset import PublishedRows, list_published
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN, WindowId
from stocktrace.store.segments import HEADER, parse_lines
from stocktrace.trade import is_ticker
from stocktrace.units import NS_PER_US

# One read takes at most about this much, so that a late start fills the page step by step.
_BYTES = 8_000_000
_ROWS = 500_000
# A folder changed less than this ago may change again within one tick of the file system's clock.
_SETTLED_NS = 100_000_000
_TRIES = 5


@dataclass(slots=True)
class CsvLines:
    """The CSV lines of one read, of one ticker after another; they are parsed together."""

    text: list[bytes] = field(default_factory=list)
    portions: list[tuple[str, int, int | None]] = field(default_factory=list)
    size: int = 0

    def parse(self) -> list[TickerRows]:
        """Return the lines as rows."""
        if not self.text:
            return []
        return TickerRows.split(parse_lines(b"".join(self.text)), self.portions)


@dataclass(slots=True)
class _TailPosition:
    """How far a window was read: bytes of its CSV and rows."""

    offset: int = 0
    rows: int = 0


class _FileMoved(Exception):
    """A file was sealed, published or deleted before it was read: list again."""


class TickerTail:
    """Reads one ticker of a session; ``dates`` returns where rows of it can be published."""

    def __init__(
        self, layout: Layout, session: str, ticker: str, dates: Callable[[], list[str]]
    ) -> None:
        self._layout, self._session, self._ticker = layout, session, ticker
        self._dates = dates
        self._folder = layout.csv(ticker, WindowId(session, "")).parent
        self._done: set[int] = set()  # numbers of the windows that were read completely
        self._positions: dict[int, _TailPosition] = {}  # of the windows that were read in part
        self._open: tuple[int, Path] | None = None
        self._listed: int | None = None  # the last change of the folder of CSVs that was listed
        self.is_behind = True  #: True if the last read did not take everything

    def read(self, lines: CsvLines) -> Iterator[TickerRows]:
        """Read what is new: add CSV to ``lines``, yield rows from Parquet."""
        self.is_behind = False
        if self._listed is not None and self._listed == _last_change(self._folder):
            try:
                if self._open is not None:
                    self.is_behind = not self._read_csv(*self._open, lines)
                return
            except FileNotFoundError:
                pass  # it was sealed or deleted: list
        for _ in range(_TRIES):
            try:
                yield from self._list_and_read(lines)
            except (FileNotFoundError, _FileMoved):
                continue
            return
        self.is_behind = True

    def _list_and_read(self, lines: CsvLines) -> Iterator[TickerRows]:
        self._listed = None
        before = _last_change(self._folder)
        segments = self._segments()
        published = self._published() if self._may_be_published(segments) else {}
        if _last_change(self._folder) != before:
            raise _FileMoved
        self._open = None
        numbers = segments.keys() | published.keys()
        if not self._positions.keys() <= numbers:
            return  # a window is being rebuilt and does not exist at the moment: wait for it
        for number in sorted(numbers):
            if lines.size >= _BYTES:
                self.is_behind = True
                return
            path = segments.get(number)
            if path is None:
                yield from self._read_parquet(number, published[number])
            else:
                if not self._read_csv(number, path, lines):
                    self.is_behind = True
                    return
                if path.name.endswith(OPEN):
                    self._open = number, path
                    break
            self._positions.pop(number, None)
            self._done.add(number)
        self._listed = before if time.time_ns() - before > _SETTLED_NS else None

    def _may_be_published(self, segments: dict[int, Path]) -> bool:
        """Check whether a window may be in Parquet only: not if all windows to come have a CSV."""
        known = segments.keys() | self._done
        return not segments or any(number not in known for number in range(1, max(segments)))

    def _segments(self) -> dict[int, Path]:
        """Return the CSVs that are not done, by the number of their window; sealed before open."""
        segments: dict[int, Path] = {}
        try:
            paths = [path for path in self._folder.iterdir() if path.name.startswith(self._session)]
        except FileNotFoundError:
            return segments
        for path in sorted(paths, reverse=True):  # `.csv` replaces `.csv.open`
            number = WindowId.parse(path).number
            if number not in self._done:
                segments[number] = path
        return segments

    def _published(self) -> dict[int, PublishedRows]:
        """Return the windows in Parquet that are not done."""
        published = list_published(self._layout, self._dates(), self._session)
        return {
            window.number: rows
            for window, rows in published.items()
            if window.number not in self._done
        }

    def _read_parquet(self, number: int, published: PublishedRows) -> Iterator[TickerRows]:
        table = pa.concat_tables(published.read([self._ticker]))
        position = self._positions.setdefault(number, _TailPosition())
        rest = table.slice(position.rows)
        position.rows = table.num_rows
        if rest.num_rows:
            yield from TickerRows.split(rest, [(self._ticker, rest.num_rows, None)])

    def _read_csv(self, number: int, path: Path, lines: CsvLines) -> bool:
        """Add complete lines behind the offset to ``lines``. Return True if these are all.

        A window that is being rebuilt from the tape is continued when it is longer than before.
        """
        position = self._positions.setdefault(number, _TailPosition())
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_size <= position.offset:
                return True
            file.seek(position.offset)
            text = file.read(_BYTES)
        is_all = position.offset + len(text) >= stat.st_size
        text = text[: text.rfind(b"\n") + 1]
        position.offset += len(text)
        header = len(HEADER) if text.startswith(HEADER) else 0
        count = text.count(b"\n") - (header > 0)
        if count:
            position.rows += count
            lines.text.append(text[header:])
            lines.portions.append((self._ticker, count, stat.st_mtime_ns // NS_PER_US))
            lines.size += len(text)
        return is_all


class SessionTail:
    """Reads all tickers of a session, or some."""

    def __init__(self, layout: Layout, session: str, tickers: Iterable[str]) -> None:
        self._layout, self._session = layout, session
        self._dates: list[str] = []
        self._dates_version = 0, 0
        self._tails: dict[str, TickerTail] = {}
        self.add_tickers(tickers)

    def _read_dates(self) -> list[str]:
        """Return the UTC dates under which the session can have rows in Parquet, in order.

        They are read again when the tapes or the report have changed, once for all tickers.
        """
        report = self._layout.report(self._session)
        version = _last_change(self._layout.tapes(self._session)), _last_change(report)
        if version != self._dates_version:
            dates = {part.date for part in self._layout.session_tapes(self._session)}
            with contextlib.suppress(FileNotFoundError, ValueError):
                dates |= SessionReport.read(report).dates
            self._dates, self._dates_version = sorted(dates), version
        return self._dates

    def add_tickers(self, tickers: Iterable[str]) -> None:
        """Read these tickers, too. Rows of an invalid ticker are in quarantine only."""
        for ticker in tickers:
            if ticker not in self._tails and is_ticker(ticker):
                tail = TickerTail(self._layout, self._session, ticker, self._read_dates)
                self._tails[ticker] = tail

    @property
    def is_behind(self) -> bool:
        """True if the last read did not take everything."""
        return any(tail.is_behind for tail in self._tails.values())

    def read(self, deadline: Deadline) -> Iterator[TickerRows]:
        """Yield what is new, each row once; about as much as can be read until the deadline.

        Raises:
            ConversionError: a file is damaged.
        """
        lines, taken = CsvLines(), 0
        for tail in sorted(self._tails.values(), key=lambda tail: tail.is_behind):
            if tail.is_behind and (taken >= _ROWS or deadline.passed()):
                continue
            for rows in tail.read(lines):
                taken += len(rows)
                yield rows
            if lines.size >= _BYTES:
                yield from lines.parse()
                taken += sum(count for _, count, _ in lines.portions)
                lines = CsvLines()
        yield from lines.parse()


def _last_change(path: Path) -> int:
    """Return when the folder, or the file, last changed (epoch ns); 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
