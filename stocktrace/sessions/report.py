"""The report of a session: its books, gaps and latency; computed, compared, written and shown."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from stocktrace.calendar import Market, market_of
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


# The windows that wait for a recovery, why files wait for the lake, and the lines of a running one.
_CHANGING = ("unpublished", "upload_error", "appended")
#: How many different texts of errors are counted one by one, and how all others are.
MAX_ERROR_TEXTS = 100
OTHER_ERRORS = "(other errors)"


def add_error(errors: dict[str, int], text: str, times: int = 1) -> None:
    """Count an error of the server."""
    if text not in errors and len(errors) >= MAX_ERROR_TEXTS:
        text = OTHER_ERRORS
    errors[text] = errors.get(text, 0) + times


class Books(msgspec.Struct):
    """Counts of a window or a session, which must balance.

    frames = trade_frames + control + undecodable; trades = recorded + quarantined. ``unrequested``
    are trades of tickers that nobody asked for, which are only on the tape and in no other count.
    """

    frames: int = 0
    trade_frames: int = 0
    control: int = 0
    undecodable: int = 0
    trades: int = 0
    recorded: int = 0
    quarantined: int = 0
    unrequested: int = 0

    def add(self, other: Books) -> None:
        """Add the counts of ``other``."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def differences(self) -> list[str]:
        """Return a sentence for each equation that does not hold."""
        sentences = []
        frames = self.trade_frames + self.control + self.undecodable
        if self.frames != frames:
            sentences.append(f"{count_of(self.frames, 'frame')}, but {frames:,} of the three kinds")
        if self.trades != self.recorded + self.quarantined:
            sentences.append(
                f"{count_of(self.trades, 'trade')} received, but {self.recorded:,} recorded "
                f"and {self.quarantined:,} quarantined"
            )
        return sentences


class TickerBooks(msgspec.Struct):
    """One ticker's share; ``parquet`` are published rows, ``last`` the last receive time."""

    trades: int = 0
    recorded: int = 0
    quarantined: int = 0
    parquet: int = 0
    last: datetime | None = None

    def add(self, other: TickerBooks) -> None:
        """Add what ``other`` received, but not what it published."""
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

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start).total_seconds()


class TickerChange(msgspec.Struct, frozen=True):
    """A change of tickers; ``by`` says who asked for it: ``cli``, ``prefect``, ``library``."""

    at: datetime
    by: str
    added: list[str]
    removed: list[str]

    def __str__(self) -> str:
        names = [*(f"+{ticker}" for ticker in self.added), *(f"-{t}" for t in self.removed)]
        return f"{self.at:%Y-%m-%d %H:%M:%S} UTC, by {self.by}: {' '.join(names)}"


class LagReport(msgspec.Struct, frozen=True):
    """Milliseconds from the trade's own time to its receipt; ``None`` without trades."""

    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, lags: LatencyHistogram) -> LagReport:
        """Return the quantiles of ``lags``."""
        if not lags.counts.any():
            return cls()
        return cls(lags.quantile(0.5), lags.quantile(0.99), lags.max_ms)


class SessionReport(msgspec.Struct):
    """A session as in ``sessions/<session>.json``, and as ``capture`` returns it.

    ``tickers`` are those at the end, and ``changes`` how they came about. ``silent`` are tickers
    without trades though their market was open, with the seconds; ``refused`` those that the
    server does not serve, with its words. ``spilled`` are the tickers of a window that were rebuilt
    from the tape. ``upload_error`` says why files are not in the lake. ``duplicates`` counts by
    ticker the trades that the feed had sent before (``query.duplicates``). ``hashes`` are the
    SHA-256 of its coverage and quarantine files, ``None`` before the end (``record.file_hashes``).
    While the session runs, the file lacks what is in the first ``appended`` bytes of the lines
    beside it (``ReportLine``); ``read`` adds that.
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
    files: int = 0
    size: int = 0
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
    appended: int = 0

    def add_duplicates(self, counts: dict[str, int]) -> None:
        """Add the duplicates in a window, by ticker."""
        for ticker, count in counts.items():
            self.duplicates[ticker] = self.duplicates.get(ticker, 0) + count

    def ticker_books(self, ticker: str) -> TickerBooks:
        """Return the books of a ticker, which are made if it has none yet."""
        return self.per_ticker.setdefault(ticker, TickerBooks())

    @property
    def dates(self) -> set[str]:
        """The UTC dates of its windows, under which its files are published."""
        return {WindowId(self.session, name).date for name in (*self.windows, *self.unpublished)}

    @property
    def added_at(self) -> dict[str, datetime]:
        """When tickers were added that were not captured from the start."""
        return {ticker: change.at for change in self.changes for ticker in change.added}

    @property
    def gap_s(self) -> float:
        """The seconds of all gaps."""
        return sum(gap.seconds for gap in self.gaps)

    @property
    def outages(self) -> list[GapReport]:
        """The gaps without that before the first connection."""
        return [gap for gap in self.gaps if gap.reason != CONNECTING]

    @property
    def gap_summary(self) -> str:
        """The number of gaps, their length, and how many of them are connecting."""
        return describe_gaps(len(self.gaps), self.gap_s, len(self.gaps) - len(self.outages))

    @property
    def feed_note(self) -> str:
        """A sentence about what Finnhub's feed of US stocks contains; empty without any of them."""
        from_finnhub = "finnhub.io" in str(self.settings.get("url", ""))
        if not from_finnhub or Market.US not in map(market_of, (*self.tickers, *self.per_ticker)):
            return ""
        return (
            "US stocks: Finnhub's free feed has the trades of one venue, IEX, which are 2 to 3 % "
            "of the consolidated volume"
        )

    @property
    def duplicates_warning(self) -> str:
        """A sentence about duplicates; empty without any."""
        if not self.duplicates:
            return ""
        tickers = count_of(len(self.duplicates), "ticker")
        trades = count_of(sum(self.duplicates.values()), "trade")
        return (
            f"the feed sent trades of {tickers} more than once: {trades} too many; read with "
            "duplicates=drop to leave them out"
        )

    def differences(self) -> list[str]:
        """Return a sentence for each equation of the books that does not hold."""
        sentences = self.books.differences()
        for name in ("trades", "recorded", "quarantined"):
            total = getattr(self.books, name)
            parts = sum(getattr(books, name) for books in self.per_ticker.values())
            if total != parts:
                verb = "received" if name == "trades" else name
                sentences.append(
                    f"{count_of(total, 'trade')} {verb} in all, but {parts:,} over the tickers"
                )
        if not self.unpublished:
            sentences += [
                f"{name}: {count_of(books.recorded, 'trade')} recorded, "
                f"but {books.parquet:,} in Parquet"
                for name, books in self.per_ticker.items()
                if books.recorded != books.parquet
            ]
        return sentences

    @property
    def balanced(self) -> bool:
        """Return whether the books balance."""
        return not self.differences()

    def digests(self) -> dict[str, str]:
        """Return a hash of each field that does not change any more once the session has ended."""
        return {
            name: hashlib.blake2b(
                msgspec.json.encode(getattr(self, name), order="deterministic"), digest_size=8
            ).hexdigest()
            for name in self.__struct_fields__
            if name not in _CHANGING
        }

    def write(self, path: Path) -> None:
        """Replace the report's file in one step by a whole one, which needs no lines beside it."""
        self._replace(path)
        lines_path(path).unlink(missing_ok=True)

    def write_head(self, path: Path, appended: int) -> None:
        """Replace the report's file by one without what the ``appended`` bytes of lines have."""
        empty = ReportLine()
        head = msgspec.structs.replace(
            self, appended=appended, **{name: getattr(empty, name) for name in _APPENDED}
        )
        SessionReport._replace(head, path)

    def _replace(self, path: Path) -> None:
        text = msgspec.json.format(msgspec.json.encode(self), indent=1).decode()
        files.replace_text(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> SessionReport:
        """Return the report in ``path``; ``ValueError`` if it is not a report."""
        report = cls.decode(path.read_bytes())
        if report.appended and not report.add_lines(path):
            report = cls.decode(path.read_bytes())  # the session may have ended in the meantime
            if report.appended:
                raise ValueError(f"{lines_path(path)} is missing or too short")
        return report

    def add_lines(self, path: Path) -> bool:
        """Add the lines beside the report; return ``False`` if some are missing."""
        try:
            with lines_path(path).open("rb") as file:
                text = file.read(self.appended)
        except FileNotFoundError:
            return False
        if len(text) < self.appended:
            return False
        gaps: dict[tuple[datetime, datetime, str], GapReport] = {}
        for line in msgspec.json.Decoder(ReportLine).decode_lines(text):
            self.windows |= line.windows
            self.spilled |= line.spilled
            self.notices += line.notices
            gaps |= {(gap.start, gap.end, gap.reason): gap for gap in line.gaps}
        self.gaps, self.appended = [gaps[key] for key in sorted(gaps)], 0
        return True

    @classmethod
    def decode(cls, text: bytes) -> SessionReport:
        """Return the report in ``text``; ``ValueError`` if it is not a report."""
        return msgspec.json.decode(text, type=cls)


class ReportLine(msgspec.Struct, omit_defaults=True):
    """The part of a running session's report that is new since the line before.

    ``gaps`` may have one of an earlier line again, with more tickers.
    """

    windows: dict[str, Books] = {}
    spilled: dict[str, list[str]] = {}
    notices: list[str] = []
    gaps: list[GapReport] = []

    def encode(self) -> bytes:
        """Return the line, with its end; nothing if nothing is new."""
        return msgspec.json.encode(self) + b"\n" if self != ReportLine() else b""


_APPENDED = ReportLine.__struct_fields__


def lines_path(report: Path) -> Path:
    """Return the file of the lines beside a report."""
    return report.with_suffix(".jsonl")
