"""What of a session stands in the files of days, and whether its rows there are right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import ConversionError, LayoutError
from stocktrace.store import footer
from stocktrace.store.content import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part, is_day
from stocktrace.store.partition import Piece, date_of, days, folders, pieces_of, ticker_of
from stocktrace.store.slices import Slices


@dataclass(slots=True)
class Days:
    """The windows of one session in files of ``dates``, read once for all windows.

    ``broken`` are files that do not tell what they hold, and why.
    """

    layout: Layout
    session: str
    dates: set[str]
    held: dict[Part, dict[str, Piece]] = field(default_factory=dict)
    broken: dict[Path, str] = field(default_factory=dict)
    _found: dict[Path, dict[Part, str]] = field(default_factory=dict)
    _wrong: dict[Path, str | None] = field(default_factory=dict)
    _told: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """See which files there are (now that some were mended)."""
        self.held, self.broken = {}, {}
        for date in sorted(self.dates):
            for folder in folders(self.layout, date):
                for path in days(folder):
                    self._add(path)

    def _add(self, path: Path) -> None:
        try:
            for piece in pieces_of(path):
                if piece.part.session == self.session:
                    self.held.setdefault(piece.part, {})[ticker_of(path.parent)] = piece
        except ConversionError as error:
            self.broken[path] = str(error)

    def is_broken(self, ticker: str, part: Part) -> bool:
        """Whether the file that may hold a window tells of none."""
        folder = self.layout.partition(ticker, part.date)
        return any(path.parent == folder for path in self.broken)

    def of_part(self, part: Part) -> dict[str, Piece]:
        """The rows of a window, by ticker."""
        return self.held.get(part, {})

    def problem(self, piece: Piece, wanted: str | None = None) -> str | None:
        """What is wrong with a piece, whose hash should be ``wanted`` or what the footer tells."""
        path = piece.path
        if path not in self._wrong:
            self._wrong[path] = self._read(path)
        if (wrong := self._wrong[path]) is not None:
            told = path in self._told
            self._told.add(path)
            return None if told else wrong  # once, for all its windows
        if self._found[path][piece.part] != (wanted or piece.content):
            return f"holds other trades of window {piece.part.stem}, {piece.rows} of them"
        if piece.content != (wanted or piece.content):
            return f"its footer does not tell the content of window {piece.part.stem}"
        return None

    def _read(self, path: Path) -> str | None:
        try:
            with Slices(path) as file:
                self._found[path] = {
                    piece.part: content_hash(file.rows(piece.offset, piece.rows)).hexdigest()
                    for piece in pieces_of(path)
                }
        except ConversionError as error:
            return str(error)
        if footer.has_wrong_statistics(path):
            return "its footer has wrong statistics, by which readers pass over rows"
        return None


def misplaced(layout: Layout, path: Path) -> Iterator[str]:
    """What readers would take wrongly, though the file may be right by itself."""
    try:
        held = {piece.part for piece in pieces_of(path)}
    except ConversionError as error:
        yield str(error)
        return
    date = date_of(path.parent)
    if path.parent != layout.partition(ticker_of(path.parent), date) or any(
        part.date != date for part in held
    ):
        yield "is not where it belongs: remove it"
    for other in sorted(path.parent.glob("*.parquet")):
        if other != path and not held.isdisjoint(_windows(other)):
            yield f"holds trades that {other.name} holds, too: remove one of them"


def _windows(path: Path) -> set[Part]:
    try:
        return {piece.part for piece in pieces_of(path)} if is_day(path) else {Part.parse(path)}
    except (ConversionError, LayoutError):
        return set()  # it is told of for itself


def sessions_in_days(layout: Layout) -> set[tuple[str, str]]:
    """The sessions that files of days tell of, each with the UTC date under which the file lies."""
    found = set()
    for folder in folders(layout):
        for path in days(folder):
            with contextlib.suppress(ConversionError):
                found |= {(piece.part.session, date_of(folder)) for piece in pieces_of(path)}
    return found
