"""Follows a session while it is recorded, and reads every row exactly once, wherever it is stored.

A window is open (``.csv.open``), sealed (``.csv``) or published (Parquet, with all its tickers).
An open one is read up to its last complete line; the next window of its ticker waits for it. When a
window is published, the rows that were not read from CSV are read from Parquet: both hold the same
rows of a ticker in the same order. Its file is opened once for all tickers.

    list CSV of all tickers ─▶ list Parquet ─▶ read what is new in Parquet ─▶ read CSV

The order of listing matters: a window is in Parquet before its CSV is deleted, so a window that
moves between the two listings is in both. A CSV that moves later is missed when it is opened, and
everything is listed again.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stocktrace.clock import Deadline
from stocktrace.dashboard.csv_tail import (
    MAX_BYTES,
    CsvLines,
    TailPosition,
    TickerTail,
    is_settled,
    last_change,
)
from stocktrace.dashboard.rows import TickerRows
from stocktrace.sessions.report import SessionReport
from stocktrace.store.compaction import split_tickers
from stocktrace.store.dataset import day_files, window_files
from stocktrace.store.footer import read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.trade_file import TradeFileReader
from stocktrace.trade import is_ticker

# One read takes at most about so many, so that a late start fills the page step by step.
_ROWS = 500_000
_TRIES = 5
_COLUMNS = ["symbol", "ts_event", "ts_recv", "price", "volume", "conditions", "window_number"]
#: Files with the same windows, and the numbers of those of the session.
_Files = tuple[tuple[Path, ...], set[int]]


@dataclass(slots=True)
class _Budget:
    """The limits of one read: about ``_ROWS`` rows, and the time until a deadline."""

    deadline: Deadline
    rows: int = 0

    @property
    def is_spent(self) -> bool:
        return self.rows >= _ROWS or self.deadline.passed()


class SessionTail:
    """Reads all tickers of a session, or some."""

    def __init__(self, layout: Layout, session: str, tickers: Iterable[str]) -> None:
        self._layout, self._session = layout, session
        self._dates: list[str] = []
        self._dates_version = 0, 0
        self._tails: dict[str, TickerTail] = {}
        self._published: set[int] = set()  # numbers of the windows that are in Parquet
        self._done: set[int] = set()  # and were read from there
        self._listed: list[int] | None = None  # the last changes of the folders that were listed
        self._file_rows: Iterator[TickerRows] | None = None  # of files that are being read
        self.add_tickers(tickers)

    def _read_dates(self) -> list[str]:
        """Return the UTC dates under which the session can have rows in Parquet, in order.

        They are read again when the tapes or the report have changed, once for all tickers.
        """
        report = self._layout.report(self._session)
        version = last_change(self._layout.tapes(self._session)), last_change(report)
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
                self._tails[ticker] = TickerTail(
                    self._layout, self._session, ticker, self._published, self._done
                )
                self._listed = None

    @property
    def is_behind(self) -> bool:
        """True if the last read did not take everything."""
        return self._file_rows is not None or any(tail.is_behind for tail in self._tails.values())

    def read(self, deadline: Deadline) -> Iterator[TickerRows]:
        """Yield what is new, each row once; about as much as can be read until the deadline.

        Raises:
            ConversionError: a file is damaged.
        """
        tails = sorted(self._tails.values(), key=lambda tail: tail.is_behind)
        budget = _Budget(deadline)
        for _ in range(_TRIES):
            is_listed = self._file_rows is None
            try:
                if not (yield from self._read_parquet(tails, budget)):
                    return
            except FileNotFoundError:  # a compaction replaced the file: list again
                continue
            if is_listed:
                tails = yield from self._read_csv(tails, budget)
            if not tails:
                return

    def _read_parquet(
        self, tails: list[TickerTail], budget: _Budget
    ) -> Generator[TickerRows, None, bool]:
        """Yield rows of files, which are listed if the last read is done; return if it is done."""
        if self._file_rows is None:
            for tail in tails:
                tail.list_segments()
            self._file_rows = self._read_files()
        for rows in self._file_rows:
            yield rows
            budget.rows += len(rows)
            if budget.is_spent:
                return False
        return True

    def _read_csv(
        self, tails: list[TickerTail], budget: _Budget
    ) -> Generator[TickerRows, None, list[TickerTail]]:
        """Yield rows of segments; return the tickers of those that moved after they were listed."""
        moved, lines = [], CsvLines()
        for tail in tails:
            if tail.is_behind and budget.is_spent:
                continue
            if not tail.read(lines):
                moved.append(tail)
            if lines.size >= MAX_BYTES:
                yield from lines.parse()
                budget.rows += sum(count for _, count, _ in lines.portions)
                lines = CsvLines()
        yield from lines.parse()
        return moved

    def _read_files(self) -> Iterator[TickerRows]:
        """Yield the rows that are new in Parquet."""
        try:
            folders = [self._layout.date_folder(date) for date in self._read_dates()]
            changes = [last_change(folder) for folder in folders]
            if changes == self._listed:
                return
            self._listed = None
            files = self._list_files()
            for _, numbers in files:
                self._published |= numbers
            missed = set[int]().union(*(tail.missed for tail in self._tails.values()))
            for paths, numbers in files:
                if numbers - self._done or numbers & missed:
                    yield from self._read_file(paths, numbers)
            # A ticker that was added in the meantime needs another look.
            if all(map(is_settled, changes)) and not any(
                tail.missed for tail in self._tails.values()
            ):
                self._listed = changes
        finally:
            self._file_rows = None

    def _list_files(self) -> list[_Files]:
        """Return the files that can have rows of the session, with the numbers of its windows."""
        files: list[_Files] = []
        for date in self._read_dates():
            if days := day_files(self._layout.date_folder(date)):
                windows = read_windows(days[0])
                numbers = {each.number for each in windows if each.session == self._session}
                files += [(days, numbers)] if numbers else []
            for path in window_files(self._layout, date, self._session):
                files.append(((path,), {WindowId.parse(path).number}))
        return sorted(files, key=lambda file: min(file[1]))

    def _read_file(self, paths: tuple[Path, ...], numbers: set[int]) -> Iterator[TickerRows]:
        """Yield the rows of some windows behind those that were read from CSV."""
        tails = dict(self._tails)
        seen = Counter[tuple[str, int]]()
        for path in paths:
            with TradeFileReader(path) as file:
                if len(paths) == 1 and file.rows == _count_read(tails.values(), numbers):
                    continue
                counts = {name: n for name, n in file.count_trades().items() if name in tails}
                for tickers in split_tickers(counts, _ROWS):
                    table = file.read(_COLUMNS, tickers=tickers, session=self._session)
                    yield from self._split_new_rows(table, seen)
        for ticker, tail in self._tails.items():
            if ticker not in tails:
                tail.missed |= numbers
                continue
            tail.missed -= numbers
            for number in numbers:
                tail.positions.pop(number, None)
        self._done |= numbers

    def _split_new_rows(
        self, table: pa.Table, seen: Counter[tuple[str, int]]
    ) -> Iterator[TickerRows]:
        """Yield the rows of ``table`` that were not read; ``seen`` are those of tables before."""
        if not len(table):
            return
        symbols = table["symbol"].combine_chunks()
        names, codes = symbols.dictionary.to_pylist(), symbols.indices.to_numpy()
        windows = table["window_number"].to_numpy()
        is_begin = (np.diff(codes, prepend=-1) != 0) | (np.diff(windows, prepend=-1) != 0)
        begins = np.flatnonzero(is_begin).tolist()
        is_new = np.zeros(len(table), np.bool_)
        portions: list[tuple[str, int, int | None]] = []
        for begin, end in zip(begins, [*begins[1:], len(table)], strict=True):
            ticker, number = names[codes[begin]], int(windows[begin])
            tail = self._tails[ticker]
            if number in self._done and number not in tail.missed:
                continue
            position = tail.positions.setdefault(number, TailPosition())
            first = begin + max(0, position.rows - seen[ticker, number])
            seen[ticker, number] += end - begin
            if first < end:
                position.rows = seen[ticker, number]
                is_new[first:end] = True
                portions.append((ticker, end - first, None))
        if portions:
            yield from TickerRows.split(table.filter(pa.array(is_new)), portions)


def _count_read(tails: Iterable[TickerTail], numbers: set[int]) -> int:
    """Return how many rows of some windows were read."""
    return sum(
        position.rows
        for tail in tails
        for number, position in tail.positions.items()
        if number in numbers
    )
