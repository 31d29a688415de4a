"""The names on disk, written and parsed here only: sessions, windows, tickers.

- ``<session>`` is ``20261123T142958Z_3f9a1c`` for a capture,
  ``20261123T142958Z_0f1e2d3c4b5a6978_import`` for imported trades, and ``…_merge`` for those of
  other sessions.
- ``<window>`` is ``20261123T143000Z_00002``.
- ``<ticker>`` is percent-encoded.

A name that does not match is an error, ``LayoutError``; it is not skipped.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from stocktrace.errors import LayoutError
from stocktrace.units import NS_PER_DAY, NS_PER_SECOND, utc_datetime

OPEN = ".open"
_STAMP = r"\d{8}T\d{6}Z"
_SESSION = rf"{_STAMP}_(?:[0-9a-f]{{6}}|[0-9a-f]{{16}}_(?:import|merge))"
_WINDOW = rf"{_STAMP}_\d{{5,}}"
_WINDOW_FILE = re.compile(rf"(?P<session>{_SESSION})-(?P<window>{_WINDOW})\.(?:csv|parquet|jsonl)")
_DAY_FILE = re.compile(r"day-(?P<number>\d{5,})(?:-\d{3,})?\.parquet")
_TAPE = re.compile(rf"(?P<session>{_SESSION})/(?P<window>{_WINDOW})\.tape(?:\.zst)?")

# Device names of Windows; with or without a suffix, they cannot be files there.
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|COM\d|LPT\d)(?=\.|$)", re.IGNORECASE)


def new_session(stamp: int) -> str:
    """Return the name of a session that begins at ``stamp`` (epoch ns): the second and six digits.

    Three digits are the fraction of the second, so that names sort by start; three are random.
    """
    fraction = stamp % NS_PER_SECOND * 4096 // NS_PER_SECOND
    return f"{compact_utc(stamp)}_{fraction:03x}{secrets.randbelow(4096):03x}"


def new_import(stamp: int, digest: str) -> str:
    """Return the name of an import whose first trade has the time ``stamp`` (epoch ns).

    ``digest``, 16 hexadecimal digits or more, is that of the source, which always has that name.
    """
    return f"{compact_utc(stamp)}_{digest[:16]}_import"


def is_import(session: str) -> bool:
    """Return whether the trades of a session were imported: no capture listened for them."""
    return session.endswith("_import")


def new_merge(stamp: int, digest: str) -> str:
    """Return the name of a merge; the arguments are those of ``new_import``."""
    return f"{compact_utc(stamp)}_{digest[:16]}_merge"


def is_merge(session: str) -> bool:
    """Return whether a session was merged from others."""
    return session.endswith("_merge")


def is_session(name: str) -> bool:
    """Return whether ``name`` can be a session's."""
    return re.fullmatch(_SESSION, name) is not None


def encode_ticker(ticker: str) -> str:
    """Return ``ticker`` as a file name: percent-encoded UTF-8, reversible, safe on any system."""
    name = quote(ticker, safe="^")
    if name.startswith(".") or _DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name.endswith("."):
        name = f"{name[:-1]}%2E"
    return name


def decode_ticker(name: str) -> str:
    """The inverse of ``encode_ticker``."""
    ticker = unquote(name)
    if not ticker or encode_ticker(ticker) != name:
        raise LayoutError(
            f"{name!r} is not the folder of a ticker: move it out of the data folder."
        )
    return ticker


def is_day_file(path: Path) -> bool:
    """Return whether ``path`` has the name of a compacted file of a day."""
    return _DAY_FILE.fullmatch(path.name) is not None


def day_file_name(number: int, part: int = 1) -> str:
    """Return the name of a file of a day that was compacted so often (``number``)."""
    return f"day-{number:05}.parquet" if part == 1 else f"day-{number:05}-{part:03}.parquet"


def reading_order(path: Path) -> tuple[bool, str, int, str]:
    """Return the sort key of the files of a folder: the day's first, then late windows.

    Windows of a session are in the order of their numbers: their times go back with the clock. The
    stem, because ``day-00001-002.parquet`` sorts before ``day-00001.parquet``.
    """
    match = _WINDOW_FILE.fullmatch(path.name)
    if match is None:
        return not is_day_file(path), path.stem, 0, ""
    return True, match["session"], _number_of(match["window"]), path.stem


def _number_of(window: str) -> int:
    return int(window.rpartition("_")[2])


def day_number(path: Path) -> int:
    """Return how often the day had been compacted when ``path`` was made."""
    return int(_match(_DAY_FILE, path.name, path)["number"])


def _match(grammar: re.Pattern[str], name: str, path: Path, kind: str = "file") -> re.Match[str]:
    match = grammar.fullmatch(name)
    if match is None:
        raise LayoutError(f"{path} is not a {kind} of stocktrace: move it out of the data folder.")
    return match


@dataclass(frozen=True, slots=True)
class WindowId:
    """The name of a window, with its session, as in file names."""

    session: str
    window: str

    @classmethod
    def of_window(cls, window: WindowSpec) -> WindowId:
        """Return the name of ``window``."""
        return cls(window.session, window.name)

    @classmethod
    def parse(cls, path: Path) -> WindowId:
        """Return the window of a CSV, Parquet or quarantine file."""
        return cls(**_match(_WINDOW_FILE, path.name.removesuffix(OPEN), path).groupdict())

    @classmethod
    def of_tape(cls, path: Path) -> WindowId:
        """Return the window of a tape."""
        name = f"{path.parent.name}/{path.name}"
        return cls(**_match(_TAPE, name, path, "tape").groupdict())

    @property
    def date(self) -> str:
        """The UTC date of all receive times in it, ``2026-11-23``."""
        return f"{self.window[:4]}-{self.window[4:6]}-{self.window[6:8]}"

    @property
    def opened_at(self) -> datetime:
        """When its first frame was received, to the second."""
        return datetime.strptime(self.window[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)

    @property
    def number(self) -> int:
        """Its place in the session. The times in the names can go back when a clock is set."""
        return _number_of(self.window)

    @property
    def order(self) -> tuple[str, int]:
        """The sort key by session, then by arrival."""
        return self.session, self.number

    @property
    def stem(self) -> str:
        """The beginning of its files' names."""
        return f"{self.session}-{self.window}"


def compact_utc(stamp: int) -> str:
    """Return ``stamp`` (epoch ns) as ``20261123T143000Z``, truncated to the second."""
    return utc_datetime(stamp).strftime("%Y%m%dT%H%M%SZ")


def utc_date(stamp: int) -> str:
    """Return the UTC date of ``stamp`` (epoch ns): ``2026-11-23``."""
    return utc_datetime(stamp).date().isoformat()


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One window: frames received at ``start`` <= t < ``end`` (epoch ns), within one UTC day.

    ``number`` counts the session's windows from 1, so that names are unique if a window was rolled
    by size or the clock stepped back. ``opened`` is when its first frame was received.
    """

    session: str
    number: int
    start: int
    end: int
    opened: int

    @property
    def name(self) -> str:
        """``<opened, UTC>_<number>``: sorts by time."""
        return f"{compact_utc(self.opened)}_{self.number:05}"


@dataclass(frozen=True, slots=True)
class RollPolicy:
    """When a window ends: every ``every_s`` seconds of the UTC day, at midnight, and on size."""

    every_s: float
    max_bytes: int

    def open(self, session: str, number: int, stamp: int) -> WindowSpec:
        """Return a new window for frames received at ``stamp``."""
        midnight = stamp - stamp % NS_PER_DAY
        every = int(self.every_s * NS_PER_SECOND)
        start = stamp - (stamp - midnight) % every
        return WindowSpec(session, number, start, min(start + every, midnight + NS_PER_DAY), stamp)

    def due(self, window: WindowSpec, stamp: int, size: int) -> bool:
        """Return whether a frame received at ``stamp`` begins a new window.

        ``size`` is that of the window's tape. A clock that stepped back before the window's start
        ends the window, too: a closed window is never opened again.
        """
        return not window.start <= stamp < window.end or size >= self.max_bytes
