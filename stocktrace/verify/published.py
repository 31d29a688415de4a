"""The published files of a session: the windows that they hold, and those in their footers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from stocktrace.errors import ConversionError, LayoutError
from stocktrace.store.checksum import Content
from stocktrace.store.dataset import PublishedRows, day_files, hash_windows, window_files
from stocktrace.store.footer import has_wrong_statistics, read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_number, is_day_file
from stocktrace.store.trade_file import TradeFileReader
from stocktrace.text import count_of

_WRONG_STATISTICS = "its footer has wrong statistics, which make readers skip rows"
_NOTHING = Content(0, "")
# So many tickers are named in a message.
_TICKERS_SHOWN = 3

#: The session and the number of a window, which each row has.
WindowKey = tuple[str, int]


def key_of(window: WindowId) -> WindowKey:
    """Return how the rows of a window name it."""
    return window.session, window.number


class FileSet:
    """The file of a window, or the files of a compacted date.

    ``listed`` is what the footers say. ``damage`` has the problems of whole files, ``problems``
    those of single windows of a compacted date, and whether a tape can repair them. ``wrong`` are
    the windows there that are to be rebuilt.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        """Read the footers."""
        self.paths = paths
        #: The window by the name of its file; ``None`` for a compacted date.
        self.window = None if is_day_file(paths[0]) else WindowId.parse(paths[0])
        self.listed: dict[WindowId, Content] = {}
        self.damage: dict[Path, str] = {}
        self.problems: list[tuple[str, bool]] = []
        self.wrong: set[WindowId] = set()
        #: The files whose footers can be read.
        self.readable: list[Path] = []
        self._held: dict[WindowKey, Content] | None = None
        for path in paths:
            try:
                self._add_footer(path, read_windows(path))
            except ConversionError as error:
                self.damage[path] = str(error)
        self.names = {key_of(window): window for window in self.listed}

    def _add_footer(self, path: Path, windows: dict[WindowId, Content]) -> None:
        self.readable.append(path)
        if self.window and [*windows] != [self.window]:
            self.damage[path] = "its footer names another session or window"
        elif windows != (self.listed or windows):
            self.damage[path] = f"its footer differs from that of {self.readable[0].name}"
        self.listed = self.listed or windows

    @property
    def is_compacted(self) -> bool:
        """Return whether these are the files of a compacted date."""
        return self.window is None

    def read(self) -> Mapping[WindowKey, Content]:
        """Return what the files hold of each window, and find their damage; reads them once.

        Row groups that cannot be read are left out.
        """
        if self._held is None:
            held = hash_windows(self.readable, self._add_damage)
            self._held = {key_of(window): content for window, content in held.items()}
            unlisted = self._held.keys() - self.names.keys()
            for session, number in sorted(unlisted):
                rows = count_of(self._held[session, number].rows, "row")
                problem = f"has {rows} of window {number} of {session}, which its footer"
                self.damage.setdefault(self.paths[0], f"{problem} does not list")
            for path in self.readable:
                if path not in self.damage and has_wrong_statistics(path):
                    self.damage[path] = _WRONG_STATISTICS
        return self._held

    def _add_damage(self, path: Path, error: ConversionError) -> None:
        self.damage.setdefault(path, str(error))

    def held(self, part: WindowId) -> Content:
        """Return what the files hold of a window."""
        return self.read().get(key_of(part), _NOTHING)

    def is_intact(self, part: WindowId) -> bool:
        """Return whether the files hold what the footer says of a window."""
        name = self.names.get(key_of(part))
        return name is not None and self.listed[name] == self.held(part)

    def describe_rows(self, part: WindowId) -> str:
        """Describe the rows of a window that are not those of its tape."""
        of_window = f" of window {part.stem}" if self.is_compacted else ""
        return f"has other trades{of_window} ({self.held(part).rows:,})"

    def compare_counts(self, part: WindowId, counts: Mapping[str, int]) -> str:
        """Name some tickers that do not have as many rows as in ``counts``."""
        if self.damage:
            return ""  # counting reads the statistics, which may be wrong
        held = PublishedRows(part, self.paths, self.held(part)).count_trades()
        different = [
            f"{ticker} {held[ticker]:,} instead of {counts.get(ticker, 0):,}"
            for ticker in sorted({*held, *counts})
            if held[ticker] != counts.get(ticker, 0)
        ]
        more = [f"{len(different) - _TICKERS_SHOWN:,} more"] if different[_TICKERS_SHOWN:] else []
        return f": {', '.join(different[:_TICKERS_SHOWN] + more)}" if different else ""

    def footer_problem(self, part: WindowId) -> str | None:
        """Describe how the footer is wrong about the rows of a window."""
        name = self.names.get(key_of(part))
        if name is None:
            return None  # the file has a finding
        if name != part:
            return f"its footer calls window {part.stem} {name.stem}"
        if self.is_intact(part):
            return None
        of_window = f"the content of window {part.stem}" if self.is_compacted else "its content"
        return f"its footer does not match {of_window}"

    def note_problem(self, part: WindowId, problem: str | None, *, repairable: bool) -> None:
        """Note what is wrong with a window of a compacted date, if something is.

        Damage of a file makes many windows wrong, and is one finding.
        """
        if problem and not self.damage:
            self.problems.append((problem, repairable))
        if problem and repairable:
            self.wrong.add(part)


class SessionFiles:
    """The published files under some dates that may have rows of a session."""

    def __init__(self, layout: Layout, session: str, dates: Iterable[str]) -> None:
        """List the files, and read the footers of compacted dates and of the session's windows."""
        self.session = session
        self.dates = set(dates)
        self.sets: list[FileSet] = []
        self._sets_by_key: dict[WindowKey, list[FileSet]] = {}
        #: Files of windows in the folder of another date.
        self.misplaced: list[Path] = []
        for date in sorted(self.dates):
            for _, paths in groupby(day_files(layout.date_folder(date)), day_number):
                self._add(FileSet(tuple(paths)))
            for path in window_files(layout, date, session):
                with contextlib.suppress(LayoutError):  # `unknown_files` reports it
                    if path == layout.window_file(WindowId.parse(path)):
                        self._add(FileSet((path,)))
                    else:
                        self.misplaced.append(path)

    def _add(self, files: FileSet) -> None:
        self.sets.append(files)
        for key in files.names if files.window is None else [key_of(files.window)]:
            self._sets_by_key.setdefault(key, []).append(files)

    def windows(self) -> set[WindowId]:
        """Return the windows of the session that have files or are listed in a footer."""
        listed = {window for files in self.sets for window in files.listed}
        named = {files.window for files in self.sets if files.window}
        return {window for window in listed if window.session == self.session} | named

    def of_window(self, part: WindowId) -> list[FileSet]:
        """Return the file of a window, and the compacted files whose footers list it."""
        sets = self._sets_by_key.get(key_of(part), [])
        return [files for files in sets if files.window in (None, part)]

    def hiding(self, part: WindowId) -> list[FileSet]:
        """Return the compacted files that may have a window though no footer lists it."""
        folder = f"date={part.date}"
        return [
            files
            for files in self.sets
            if files.is_compacted and files.paths[0].parent.name == folder
            if not files.listed or key_of(part) in files.read().keys() - files.names.keys()
        ]

    def count_trades(self) -> Counter[str] | None:
        """Count the rows of the session by ticker; ``None`` if a file is damaged.

        It is also ``None`` if a window is in two files.
        """
        counts: Counter[str] = Counter()
        counted: set[WindowId] = set()
        for files in self.sets:
            windows = {window for window in files.listed if window.session == self.session}
            if files.damage or windows & counted:
                return None
            counted |= windows
            for path in files.paths if windows else ():
                try:
                    with TradeFileReader(path) as file:
                        table = file.read(["symbol"], session=self.session)
                except ConversionError:
                    return None
                for count in table["symbol"].value_counts():
                    counts[count["values"].as_py()] += count["counts"].as_py()
        return counts
