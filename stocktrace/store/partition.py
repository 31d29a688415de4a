"""One folder ``date=…/symbol=…``: which windows its files hold, and which rows of which file.

Freshly converted windows are a file each; compaction makes one file of all that are there. The rows
of a window are a *piece* either way, and whoever counts or compares asks for pieces. Their order is
that of the sessions' names, then of the windows': the sessions by when they began, the windows of
each as they were recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from stocktrace.errors import ConversionError
from stocktrace.store import footer
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part, decode_ticker, is_day, reading_order
from stocktrace.store.slices import Slices

# Compaction takes the files away between a listing and its reading at most once a day.
_TRIES = 5
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one window: ``rows`` of ``path`` from ``offset`` on, whose hash is ``content``.

    So the footer tells; only reading the rows proves it. ``size`` is their share of its bytes.
    """

    part: Part
    path: Path
    offset: int
    rows: int
    content: str
    size: int

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its rows, from the file that is opened for it.

        Raises:
            ConversionError: they cannot be read, or are not there.
        """
        with Slices(self.path) as file:
            yield from file.rows(self.offset, self.rows)


def pieces(folder: Path, session: str | None = None) -> list[Piece]:
    """What a folder holds (of one session), in order.

    Raises:
        ConversionError: a file has no footer, or not one of ours.
        LayoutError: a file is none of stocktrace's.
    """
    return steadily(lambda: _pieces(folder, session))


def in_day(layout: Layout, ticker: str, part: Part) -> Piece | None:
    """The rows of a ticker's window in the file of the day, if they are there."""
    folder = layout.partition(ticker, part.date)

    def found() -> Piece | None:
        held = (piece for path in days(folder) for piece in pieces_of(path))
        return next((piece for piece in held if piece.part == part), None)

    return steadily(found)


def of_session(layout: Layout, session: str, dates: Iterable[str]) -> Iterator[tuple[str, Piece]]:
    """The published pieces of a session that lie under ``dates``, each with its ticker."""
    for date in sorted(dates):
        for folder in folders(layout, date):
            for piece in pieces(folder, session):
                yield ticker_of(folder), piece


def folders(layout: Layout, date: str = "*") -> list[Path]:
    """The folders of tickers, of one date or of all, sorted."""
    return sorted(layout.dataset.glob(f"date={date}/symbol=[!~]*"))


def ticker_of(folder: Path) -> str:
    """The ticker whose trades a folder holds."""
    return decode_ticker(folder.name.removeprefix("symbol="))


def date_of(path: Path) -> str:
    """The UTC date of a folder that holds trades, or of a file that holds coverage."""
    return path.parent.name.removeprefix("date=")


def days(folder: Path) -> list[Path]:
    """The compacted files of a folder: one, or none."""
    return sorted(path for path in folder.glob("day-*.parquet") if is_day(path))


def in_order(folder: Path) -> list[Path]:
    """The files of a folder in the order in which to read them: the day's, then late windows."""
    return sorted(folder.glob("*.parquet"), key=reading_order)


def steadily(read: Callable[[], _Found]) -> _Found:
    """``read``, again if a compaction took away a file that it had listed."""
    for _ in range(_TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _pieces(folder: Path, session: str | None) -> list[Piece]:
    found = []
    for path in in_order(folder):
        # The name of a window's file tells the session; many need not be opened.
        if session is None or is_day(path) or Part.parse(path).session == session:
            found += [each for each in pieces_of(path) if session in (None, each.part.session)]
    return sorted(found, key=lambda piece: (piece.part.session, piece.part.window))


def pieces_of(path: Path) -> list[Piece]:
    """What one published file holds, in the order of its rows.

    Raises:
        ConversionError: it has no footer, or not one of ours.
        LayoutError: it is none of stocktrace's.
        FileNotFoundError: it is not there (any more).
    """
    told, size = footer.metadata(path), path.stat().st_size
    total = int(told["rows"])
    if not is_day(path):
        return [Piece(Part.parse(path), path, 0, total, told.get("content", ""), size)]
    try:
        parts = footer.parse_parts(told["parts"])
    except (KeyError, ValueError) as error:
        raise ConversionError(f"{path} does not tell what it is made of: {error}.") from error
    if sum(rows for _, rows, _ in parts) != total:
        raise ConversionError(f"{path} has {total} rows, but tells of others.")
    ends = accumulate(rows for _, rows, _ in parts)
    return [
        Piece(part, path, end - rows, rows, content, size * rows // (total or 1))
        for (part, rows, content), end in zip(parts, ends, strict=True)
    ]


def find(layout: Layout, ticker: str, part: Part) -> Piece | None:
    """The published rows of a ticker's window, in a file of their own or in that of the day."""
    own = layout.parquet(ticker, part)
    return pieces_of(own)[0] if own.exists() else in_day(layout, ticker, part)


class PieceReader:
    """Reads pieces, and keeps the last file open: the pieces of one mostly follow one another."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file = contextlib.ExitStack()
        self._slices: Slices | None = None

    def rows(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """The rows of ``piece``."""
        return self._of(piece).rows(piece.offset, piece.rows)

    def head(self, piece: Piece, count: int) -> pa.Table:
        """Its first rows, at most ``count``."""
        return self._of(piece).head(piece.offset, min(count, piece.rows))

    def _of(self, piece: Piece) -> Slices:
        if self._slices is None or self._path != piece.path:
            self.close()
            self._slices = self._file.enter_context(Slices(piece.path))
            self._path = piece.path
        return self._slices

    def close(self) -> None:
        """Close the file."""
        self._file.close()
