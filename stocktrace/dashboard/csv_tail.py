"""Reads what is appended to the CSV segments of one ticker."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.dashboard.rows import TickerRows
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN, WindowId
from stocktrace.store.segments import HEADER, parse_lines
from stocktrace.units import NS_PER_US

#: One read takes at most about this much, so that a late start fills the page step by step.
MAX_BYTES = 8_000_000
# A folder changed less than this ago may change again within one tick of the file system's clock.
_SETTLED_NS = 100_000_000


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
class TailPosition:
    """How far a window was read: bytes of its CSV and rows; ``is_read`` when it is sealed, too."""

    offset: int = 0
    rows: int = 0
    is_read: bool = False


class TickerTail:
    """Reads one ticker of a session from CSV, except windows that are ``published``.

    ``missed`` are the published windows that were read before the ticker was added.
    """

    def __init__(
        self,
        layout: Layout,
        session: str,
        ticker: str,
        published: Container[int],
        missed: Iterable[int],
    ) -> None:
        self._session, self._ticker, self._published = session, ticker, published
        self._folder = layout.csv(ticker, WindowId(session, "")).parent
        self._segments: dict[int, Path] = {}  # by the number of their window, in order
        self._listed: int | None = None  # the last change of the folder that was listed
        self.missed = set(missed)
        self.positions: dict[int, TailPosition] = {}  # of the windows that are not in Parquet yet
        self.is_behind = True  #: True if the last read did not take everything

    def list_segments(self) -> None:
        """List the folder of CSVs, if it has changed."""
        change = last_change(self._folder)
        if change == self._listed:
            return
        segments: dict[int, Path] = {}
        with contextlib.suppress(FileNotFoundError):
            # `.csv` replaces `.csv.open`.
            for path in sorted(self._folder.glob(f"{self._session}-*"), reverse=True):
                segments[WindowId.parse(path).number] = path
        self._segments = dict(sorted(segments.items()))
        self._listed = change if is_settled(change) else None

    def read(self, lines: CsvLines) -> bool:
        """Add what is new to ``lines``; return False if a file has moved since it was listed."""
        self.is_behind = False
        for number in self.positions.keys() - self._segments.keys():
            if not (self.positions[number].is_read or number in self._published):
                return True  # it is being rebuilt and does not exist at the moment: wait for it
        for number, path in self._segments.items():
            if number in self._published:
                continue
            position = self.positions.setdefault(number, TailPosition())
            if position.is_read:
                continue
            try:
                is_all = lines.size < MAX_BYTES and self._read_csv(path, position, lines)
            except FileNotFoundError:
                self._listed, self.is_behind = None, True
                return False
            if not is_all:
                self.is_behind = True
                return True
            if path.name.endswith(OPEN):
                return True
            position.is_read = True
        return True

    def _read_csv(self, path: Path, position: TailPosition, lines: CsvLines) -> bool:
        """Add complete lines behind the offset to ``lines``. Return True if these are all.

        A window that is being rebuilt from the tape is continued when it is longer than before.
        """
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_size <= position.offset:
                return True
            file.seek(position.offset)
            text = file.read(MAX_BYTES)
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


def is_settled(change: int) -> bool:
    """Return whether a later change has another time than ``change``."""
    return time.time_ns() - change > _SETTLED_NS


def last_change(path: Path) -> int:
    """Return when the folder, or the file, last changed (epoch ns); 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
