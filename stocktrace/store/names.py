"""The one grammar of the names on disk, written and read here: sessions, windows, tickers.

``<session>`` is ``20261123T142958Z_3f9a1c``, or ``20261123T142958Z_0f1e2d3c4b5a6978_import`` if its
trades were not captured but imported, ``…_merge`` if they are those of other sessions; ``<window>``
is ``20261123T143000Z_00002``, ``<ticker>`` percent-encoded. A name that does not fit is an error,
not skipped.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from stocktrace.errors import LayoutError
from stocktrace.store.window import WindowSpec, compact_utc
from stocktrace.trade import is_ticker
from stocktrace.units import NS_PER_SECOND

OPEN = ".open"
_STAMP = r"\d{8}T\d{6}Z"
_SESSION = rf"{_STAMP}_(?:[0-9a-f]{{6}}|[0-9a-f]{{16}}_(?:import|merge))"
_WINDOW = rf"{_STAMP}_\d{{5,}}"
_PART = re.compile(rf"(?P<session>{_SESSION})-(?P<window>{_WINDOW})\.(?:csv|parquet|jsonl)")
_DAY = re.compile(r"day-(?P<number>\d{5,})\.parquet")
_TAPE = re.compile(rf"(?P<window>{_WINDOW})\.tape(?:\.zst)?")

# Device names of Windows, with or without an ending, open no file there.
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|COM\d|LPT\d)(?=\.|$)", re.IGNORECASE)


def new_session(stamp: int) -> str:
    """A session's name: the second in which it began (``stamp``, epoch ns), and six digits.

    Three are of the second's fraction, so that names sort as sessions began; three are random.
    """
    fraction = stamp % NS_PER_SECOND * 4096 // NS_PER_SECOND
    return f"{compact_utc(stamp)}_{fraction:03x}{secrets.randbelow(4096):03x}"


def new_import(stamp: int, digest: str) -> str:
    """The name of trades that were imported, the first of them of ``stamp`` (epoch ns).

    ``digest`` is of what they were imported from, 16 hexadecimal digits or more: the same source
    has the same name.
    """
    return f"{compact_utc(stamp)}_{digest[:16]}_import"


def is_import(session: str) -> bool:
    """Whether the trades of a session were imported: nobody listened for them."""
    return session.endswith("_import")


def new_merge(stamp: int, digest: str) -> str:
    """The name of what sessions were merged to; the arguments are those of ``new_import``."""
    return f"{compact_utc(stamp)}_{digest[:16]}_merge"


def is_merge(session: str) -> bool:
    """Whether the trades of a session are those of others."""
    return session.endswith("_merge")


def is_session(name: str) -> bool:
    """Whether ``name`` can be a session's."""
    return re.fullmatch(_SESSION, name) is not None


def encode_ticker(ticker: str) -> str:
    """``ticker`` as a file name: percent-encoded UTF-8, reversible, harmless on any system."""
    name = quote(ticker, safe="^")
    if name.startswith(".") or _DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name.endswith("."):
        name = f"{name[:-1]}%2E"
    return name


def decode_ticker(name: str) -> str:
    """The inverse of ``encode_ticker``.

    Raises:
        LayoutError: ``name`` is not what ``encode_ticker`` writes.
    """
    ticker = unquote(name)
    if not ticker or encode_ticker(ticker) != name:
        raise LayoutError(f"{name!r} is no ticker's folder: move it out of the data folder.")
    return ticker


def tickers_in(names: Iterable[str]) -> Iterator[str]:
    """The tickers whose folders have these names; the anchor and what is not ours are not."""
    for name in names:
        with contextlib.suppress(LayoutError):
            if is_ticker(ticker := decode_ticker(name)):
                yield ticker


def is_day_file(path: Path) -> bool:
    """Whether ``path`` is called as the one file of a ticker's day is."""
    return _DAY.fullmatch(path.name) is not None


def reading_order(path: Path) -> tuple[bool, str]:
    """A key that sorts the files of a folder: the day's first, then late windows."""
    return not is_day_file(path), path.name


def day_number(path: Path) -> int:
    """How often the day had been compacted when ``path`` was made.

    Raises:
        LayoutError: it is no day's file.
    """
    match = _DAY.fullmatch(path.name)
    if match is None:
        raise LayoutError(f"{path} is no day's file of stocktrace: move it out of the data folder.")
    return int(match["number"])


@dataclass(frozen=True, slots=True)
class WindowId:
    """The names of one window of one session, as file names carry them."""

    session: str
    window: str

    @classmethod
    def of_window(cls, window: WindowSpec) -> WindowId:
        """The part that ``window`` is."""
        return cls(window.session, window.name)

    @classmethod
    def parse(cls, path: Path) -> WindowId:
        """The part that a CSV, Parquet or quarantine file belongs to.

        Raises:
            LayoutError: the name is not of the grammar.
        """
        match = _PART.fullmatch(path.name.removesuffix(OPEN))
        if match is None:
            raise LayoutError(f"{path} is no file of stocktrace: move it out of the data folder.")
        return cls(match["session"], match["window"])

    @classmethod
    def of_tape(cls, path: Path) -> WindowId:
        """The part that a tape belongs to.

        Raises:
            LayoutError: the name is not of the grammar.
        """
        match = _TAPE.fullmatch(path.name)
        if match is None or not is_session(path.parent.name):
            raise LayoutError(f"{path} is no tape of stocktrace: move it out of the data folder.")
        return cls(path.parent.name, match["window"])

    @property
    def date(self) -> str:
        """The UTC date of all receive times in it, ``2026-11-23``."""
        return f"{self.window[:4]}-{self.window[4:6]}-{self.window[6:8]}"

    @property
    def opened_at(self) -> datetime:
        """When the first of it was received, to the second."""
        return datetime.strptime(self.window[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)

    @property
    def number(self) -> int:
        """Its place in the session; the times in the names can go back, when a clock is set."""
        return int(self.window.rpartition("_")[2])

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return f"{self.session}-{self.window}"
