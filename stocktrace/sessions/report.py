"""What a session came to: books, gaps, lags; values that are computed, compared, written, shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from stocktrace.intervals import CONNECTING
from stocktrace.latency import LatencyHistogram
from stocktrace.store import files
from stocktrace.store.names import WindowId
from stocktrace.text import count_of, describe_gaps

#: ``complete``: it reached its end time; ``recovered``: after a crash; ``imported`` from files;
#: ``merged`` from other sessions. ``crashed`` is never on disk: ``catalog`` finds it out.
SessionState = Literal[
    "running", "complete", "interrupted", "failed", "recovered", "imported", "merged", "crashed"
]


class Books(msgspec.Struct):
    """Counts that must balance, of a window or a session.

    frames = trade_frames + control + undecodable; trades = recorded + quarantined.
    """

    frames: int = 0
    trade_frames: int = 0
    control: int = 0
    undecodable: int = 0
    trades: int = 0
    recorded: int = 0
    quarantined: int = 0

    def add(self, other: Books) -> None:
        """Add the counts of ``other``."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def differences(self) -> list[str]:
        """Where they do not balance, in words."""
        found = []
        frames = self.trade_frames + self.control + self.undecodable
        if self.frames != frames:
            found.append(f"{count_of(self.frames, 'frame')}, but {frames:,} of the three kinds")
        if self.trades != self.recorded + self.quarantined:
            found.append(
                f"{count_of(self.trades, 'trade')} received, but {self.recorded:,} recorded "
                f"and {self.quarantined:,} quarantined"
            )
        return found


class TickerBooks(msgspec.Struct):
    """One ticker's share; ``parquet`` are rows published, ``last`` the last receive time."""

    trades: int = 0
    recorded: int = 0
    quarantined: int = 0
    parquet: int = 0
    files: int = 0
    size: int = 0
    last: datetime | None = None

    def add(self, other: TickerBooks) -> None:
        """Add what ``other`` received; what is published counts on its own."""
        self.trades += other.trades
        self.recorded += other.recorded
        self.quarantined += other.quarantined
        self.last = max(filter(None, (self.last, other.last)), default=None)


class GapReport(msgspec.Struct, frozen=True):
    """A gap of the session."""

    start: datetime
    end: datetime
    reason: str
    tickers: int


class TickerChange(msgspec.Struct, frozen=True):
    """Other tickers while it ran; ``by`` is who asked: ``cli``, ``prefect``, ``library``."""

    at: datetime
    by: str
    added: list[str]
    removed: list[str]

    def __str__(self) -> str:
        changed = [*(f"+{ticker}" for ticker in self.added), *(f"-{t}" for t in self.removed)]
        return f"{self.at:%Y-%m-%d %H:%M:%S} UTC, by {self.by}: {' '.join(changed)}"


class LagReport(msgspec.Struct, frozen=True):
    """Milliseconds from the trade's own time to its receipt."""

    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, lags: LatencyHistogram) -> LagReport:
        """The quantiles of ``lags``; of nothing they are unknown, not zero."""
        if not lags.counts.any():
            return cls()
        return cls(lags.quantile(0.5), lags.quantile(0.99), lags.max_ms)


class SessionReport(msgspec.Struct):
    """A session, as ``sessions/<session>.json`` has it and ``capture`` gives it back.

    ``state``: ``running``, ``complete`` (its time was up), ``interrupted``, ``failed``,
    ``recovered`` after its process had died, ``imported`` from elsewhere, ``merged`` from others.
    ``silent`` has tickers that came to nothing though their market was open, with the seconds;
    ``refused`` those the server does not serve, with its words; ``unsent`` why files of it are not
    in the lake; ``spilled`` the tickers of a window that were had from the tape; ``changes`` how
    ``tickers``, those at the end, came to differ from those it began with; ``copies`` how many
    trades of a ticker the feed had sent before (``query.duplicates``); ``hashes`` the SHA-256 of each
    file of coverage and quarantine, ``None`` until it has ended (``record.file_hashes``).
    """

    session: str
    tickers: list[str]
    started: datetime
    state: SessionState = "running"
    reason: str = ""
    ended: datetime | None = None
    books: Books = msgspec.field(default_factory=Books)
    per_ticker: dict[str, TickerBooks] = msgspec.field(default_factory=dict)
    windows: dict[str, Books] = msgspec.field(default_factory=dict)
    unpublished: list[str] = msgspec.field(default_factory=list)
    upload_error: str = ""
    gaps: list[GapReport] = msgspec.field(default_factory=list)
    changes: list[TickerChange] = msgspec.field(default_factory=list)
    reconnects: int = 0
    latency: LagReport = LagReport()
    silent: dict[str, float] = msgspec.field(default_factory=dict)
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    notices: list[str] = msgspec.field(default_factory=list)
    spilled: dict[str, list[str]] = msgspec.field(default_factory=dict)
    duplicates: dict[str, int] = msgspec.field(default_factory=dict)
    hashes: dict[str, str] | None = None
    settings: dict[str, str | int | float] = msgspec.field(default_factory=dict)
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    host: str = ""
    pid: int = 0

    def ticker(self, name: str) -> TickerBooks:
        """The books of one ticker."""
        return self.per_ticker.setdefault(name, TickerBooks())

    @property
    def dates(self) -> set[str]:
        """The UTC dates of its windows, under which its files are published."""
        return {WindowId(self.session, name).date for name in (*self.windows, *self.unpublished)}

    @property
    def added(self) -> dict[str, datetime]:
        """When tickers were asked for that were not there from the start."""
        return {ticker: change.at for change in self.changes for ticker in change.added}

    @property
    def gap_s(self) -> float:
        """Seconds of the gaps."""
        return sum((gap.end - gap.start).total_seconds() for gap in self.gaps)

    @property
    def outages(self) -> list[GapReport]:
        """The gaps, but not the moment before the first connection stood."""
        return [gap for gap in self.gaps if gap.reason != CONNECTING]

    @property
    def missed_s(self) -> str:
        """How many gaps, how long in all, and how many of them are connecting."""
        return describe_gaps(len(self.gaps), self.gap_s, len(self.gaps) - len(self.outages))

    @property
    def duplicated(self) -> str:
        """What to know of copies; empty if there are none."""
        if not self.duplicates:
            return ""
        return (
            f"the feed sent trades of {count_of(len(self.duplicates), 'ticker')} more than once: "
            f"{count_of(sum(self.duplicates.values()), 'trade')} too many, which readers leave out with "
            "copies=drop"
        )

    def differences(self) -> list[str]:
        """Where the books do not balance, in words; empty is good."""
        found = self.books.differences()
        found += _sums(self.books, self.per_ticker.values())
        if not self.unpublished:
            found += [
                f"{name}: {count_of(one.recorded, 'trade')} recorded, but {one.parquet:,} in Parquet"
                for name, one in self.per_ticker.items()
                if one.recorded != one.parquet
            ]
        return found

    @property
    def balanced(self) -> bool:
        """Whether the books balance."""
        return not self.differences()

    def write(self, path: Path) -> None:
        """Replace the report's file as a whole."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1).decode()
        files.replace_text(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> SessionReport:
        """The report in ``path``.

        Raises:
            ValueError: it is none.
        """
        return cls.decode(path.read_bytes())

    @classmethod
    def decode(cls, text: bytes) -> SessionReport:
        """The report that ``text`` is; ``ValueError`` if it is none."""
        return msgspec.json.decode(text, type=cls)


def _sums(books: Books, tickers: Iterable[TickerBooks]) -> list[str]:
    found = []
    each = list(tickers)
    for name in ("trades", "recorded", "quarantined"):
        total, parts = getattr(books, name), sum(getattr(one, name) for one in each)
        if total != parts:
            done = "received" if name == "trades" else name
            found.append(
                f"{count_of(total, 'trade')} {done} in all, but {parts:,} over the tickers"
            )
    return found
