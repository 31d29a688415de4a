"""Reads along while a session is recorded: every row exactly once, wherever it stands by then.

A ticker's windows are read one after another; one that is had from its tape may show late. An open
one is read up to its last whole line; it is done when it is sealed (``.csv``) or published:
what was not read of it by then is had from Parquet, behind as many rows as were read of the CSV,
for both hold the same rows in one order.

    list CSV ─▶ list Parquet ─▶ nothing moved meanwhile? ─▶ read the next window, and the next

The order of listing matters: a window is in Parquet before its CSV goes, so one that moves on
between the two listings is in both. One that came and went meanwhile changed the folder of CSVs,
and all is listed again.
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
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN, WindowId, is_day_file
from stocktrace.store.partition import WindowRows, files_in_order, window_rows_in
from stocktrace.store.segments import HEADER, parse_lines
from stocktrace.trade import is_ticker

# One look reads at most about so much at once, so that a late start fills the page bit by bit.
_BYTES = 8_000_000
_ROWS = 500_000
# A folder that changed this lately may change again within one tick of the file system's clock.
_SETTLED_NS = 100_000_000
_TRIES = 5


@dataclass(slots=True)
class TailLines:
    """What one look took from CSV: lines of one ticker after another, parsed together."""

    text: list[bytes] = field(default_factory=list)
    portions: list[tuple[str, int, int | None]] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class _TailPosition:
    """How far a window was read: bytes of its CSV, and rows."""

    offset: int = 0
    rows: int = 0


class _FileMoved(Exception):
    """A file went on to its next name while it was about to be read: list again."""


class _Dates:
    """The UTC dates under which a session can have something in Parquet, by its tapes and report.

    They are read again when one of the two has changed, once for all tickers.
    """

    def __init__(self, layout: Layout, session: str) -> None:
        self._layout, self._session = layout, session
        self._found: list[str] = []
        self._seen = 0, 0

    def __call__(self) -> list[str]:
        report = self._layout.report(self._session)
        seen = _folder_version(self._layout.tapes(self._session)), _folder_version(report)
        if seen != self._seen:
            dates = {part.date for part in self._layout.session_tapes(self._session)}
            with contextlib.suppress(FileNotFoundError, ValueError):
                dates |= SessionReport.read(report).dates
            self._found, self._seen = sorted(dates), seen
        return self._found


class TickerTail:
    """One ticker of a session, of which something can be published under ``dates``."""

    def __init__(
        self, layout: Layout, session: str, ticker: str, dates: Callable[[], list[str]]
    ) -> None:
        self._layout, self._session, self._ticker = layout, session, ticker
        self._dates = dates
        self._folder = layout.csv(ticker, WindowId(session, "")).parent
        self._done: set[int] = set()  # the numbers of windows that were read whole
        self._begun: dict[int, _TailPosition] = {}  # and how far others were
        self._open: tuple[int, Path] | None = None
        self._listed: int | None = None  # when the folder of CSVs changed, as it was listed last
        self.behind = True  #: whether more was there than the last look took

    def read(self, lines: TailLines) -> Iterator[TickerRows]:
        """Take what is new: CSV into ``lines``, the rows of Parquet as they are."""
        self.behind = False
        if self._listed is not None and self._listed == _folder_version(self._folder):
            try:
                if self._open is not None:
                    self.behind = not self._read_csv(*self._open, lines)
                return
            except FileNotFoundError:
                pass  # it went on to its next name: list
        for _ in range(_TRIES):
            try:
                yield from self._list_and_read(lines)
            except (FileNotFoundError, _FileMoved):
                continue
            return
        self.behind = True

    def _list_and_read(self, lines: TailLines) -> Iterator[TickerRows]:
        self._listed = None
        before = _folder_version(self._folder)
        segments = self._segments()
        published = self._published() if self._may_be_published(segments) else {}
        if _folder_version(self._folder) != before:
            raise _FileMoved
        self._open = None
        found = segments.keys() | published.keys()
        if not self._begun.keys() <= found:
            return  # one is being begun anew, and is nowhere for a moment: its turn comes first
        for number in sorted(found):
            if lines.size >= _BYTES:
                self.behind = True
                return
            path = segments.get(number)
            if path is None:
                yield from self._read_piece(number, published[number])
            else:
                if not self._read_csv(number, path, lines):
                    self.behind = True
                    return
                if path.name.endswith(OPEN):
                    self._open = number, path
                    break
            self._begun.pop(number, None)
            self._done.add(number)
        self._listed = before if time.time_ns() - before > _SETTLED_NS else None

    def _may_be_published(self, segments: dict[int, Path]) -> bool:
        """Whether something may be in Parquet only: not if all that comes next has a CSV."""
        known = segments.keys() | self._done
        return not segments or any(number not in known for number in range(1, max(segments)))

    def _segments(self) -> dict[int, Path]:
        """The CSVs that are not done, by the number of their window; sealed before open."""
        found: dict[int, Path] = {}
        try:
            paths = [path for path in self._folder.iterdir() if path.name.startswith(self._session)]
        except FileNotFoundError:
            return found
        for path in sorted(paths, reverse=True):  # `.csv.open` before `.csv`, which stays
            number = WindowId.parse(path).number
            if number not in self._done:
                found[number] = path
        return found

    def _published(self) -> dict[int, WindowRows | Path]:
        """What is in Parquet and not done: windows by their files, or pieces of a day's file."""
        found: dict[int, WindowRows | Path] = {}
        for date in self._dates():
            for path in files_in_order(self._layout.partition(self._ticker, date)):
                if is_day_file(path):
                    for piece in window_rows_in(path):
                        if piece.part.session == self._session:
                            found[piece.part.number] = piece
                elif path.name.startswith(self._session):
                    found[WindowId.parse(path).number] = path
        return {number: one for number, one in found.items() if number not in self._done}

    def _read_piece(self, number: int, found: WindowRows | Path) -> Iterator[TickerRows]:
        pieces = window_rows_in(found) if isinstance(found, Path) else [found]
        table = pa.Table.from_batches([batch for piece in pieces for batch in piece.read()])
        place = self._begun.setdefault(number, _TailPosition())
        rest = table.slice(place.rows)
        place.rows = table.num_rows
        if rest.num_rows:
            yield from TickerRows.part(rest, [(self._ticker, rest.num_rows, None)])

    def _read_csv(self, number: int, path: Path, lines: TailLines) -> bool:
        """Take whole lines behind the offset; whether these are all.

        One that was begun anew, from the tape, is read on when it is as long again.
        """
        place = self._begun.setdefault(number, _TailPosition())
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_size <= place.offset:
                return True
            file.seek(place.offset)
            text = file.read(_BYTES)
        whole = place.offset + len(text) >= facts.st_size
        text = text[: text.rfind(b"\n") + 1]
        place.offset += len(text)
        begins = len(HEADER) if text.startswith(HEADER) else 0
        count = text.count(b"\n") - (begins > 0)
        if count:
            place.rows += count
            lines.text.append(text[begins:])
            lines.portions.append((self._ticker, count, facts.st_mtime_ns // 1000))
            lines.size += len(text)
        return whole


class SessionTail:
    """All tickers of a session, or some."""

    def __init__(self, layout: Layout, session: str, tickers: Iterable[str]) -> None:
        self._layout, self._session = layout, session
        self._dates = _Dates(layout, session)
        self._tails: dict[str, TickerTail] = {}
        self.follow(tickers)

    def follow(self, tickers: Iterable[str]) -> None:
        """Read these tickers, too; what cannot be one is in quarantine, and in no file of ours."""
        for ticker in tickers:
            if ticker not in self._tails and is_ticker(ticker):
                tail = TickerTail(self._layout, self._session, ticker, self._dates)
                self._tails[ticker] = tail

    @property
    def is_behind(self) -> bool:
        """Whether more was there than the last look took."""
        return any(tail.behind for tail in self._tails.values())

    def read(self, within: Deadline) -> Iterator[TickerRows]:
        """What is new, each row once; about as much as can be had until ``within``.

        Raises:
            ConversionError: a file is damaged.
        """
        lines, taken = TailLines(), 0
        for tail in sorted(self._tails.values(), key=lambda tail: tail.behind):
            if tail.behind and (taken >= _ROWS or within.passed()):
                continue
            for rows in tail.read(lines):
                taken += len(rows)
                yield rows
            if lines.size >= _BYTES:
                yield from _parse(lines)
                taken += sum(count for _, count, _ in lines.portions)
                lines = TailLines()
        yield from _parse(lines)


def _folder_version(folder: Path) -> int:
    """When a file came into the folder or left it, epoch ns; 0 if there is none yet."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _parse(lines: TailLines) -> list[TickerRows]:
    return TickerRows.part(parse_lines(b"".join(lines.text)), lines.portions) if lines.text else []
