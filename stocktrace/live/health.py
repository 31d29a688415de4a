"""The problems of a running capture, as sentences.

``find_problems`` returns those that a person should be woken for. ``StalenessMonitor`` records
those of a live connection in the session's report: late trades, silent tickers, late publishing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, get_args

from stocktrace.calendar import market_of, open_seconds
from stocktrace.record.intake import Intake
from stocktrace.record.journal import LAG_WARNING_S, SessionJournal
from stocktrace.record.recorder import Recorder
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.units import MS_PER_SECOND, utc_datetime

#: ``stalled``: the capture's main thread hangs; ``late``: a silent ticker.
ProblemKind = Literal["stalled", "disconnected", "late", "lag", "queue", "publishing", "disk"]
PROBLEM_KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)

# There is a status twice a second. A capture that publishes a large window may miss a few.
STALLED_S = 10.0
# The longest delay before a reconnect: a longer disconnect is not a short one any more.
DISCONNECTED_S = 60.0
# Trades are on disk within ``flush_interval``. Twenty times the default is a backlog.
BEHIND_S = 20.0
# Publishing a window takes seconds; one that is rebuilt from its tape, some more.
PUBLISHING_S = 60.0
# The capture ends at ``min_free_space``. Twice that leaves time to make room.
DISK_FACTOR = 2
# A window makes a file for each ticker, and two windows exist at once; the rest is for the tape,
# Parquet, the report and temporary files.
_OTHER_FILES = 20
# Finnhub's usual latency is 0.1 s, its incidents are minutes (FINNHUB.md, #42, #84).
LATE_MS = 60_000.0
# A liquid stock trades many times a minute: after so much silence it deserves a warning.
SILENT_S = 900.0
# If more become silent at once, they share a notice: 5,000 of them took seconds to write.
_MAX_SILENT_NOTICES = 10


@dataclass(frozen=True, slots=True)
class HealthInput:
    """Everything known of a capture at ``now`` (UTC)."""

    status: CaptureStatus
    settings: Settings
    now: datetime
    status_age_s: float
    disconnected_s: float
    free_bytes: int
    free_inodes: int | None = None


def min_free_inodes(tickers: int) -> int:
    """Return the number of free inodes below which a capture of so many tickers ends."""
    return 2 * tickers + _OTHER_FILES


def find_problems(capture: HealthInput) -> Iterator[tuple[ProblemKind, str]]:
    """Yield the kind and a sentence of each problem. Only the disk counts after the feed's end."""
    status, settings = capture.status, capture.settings
    if capture.free_bytes < DISK_FACTOR * settings.min_free_space:
        left, limit = capture.free_bytes / 1e6, settings.min_free_space / 1e6
        yield "disk", f"the disk has {left:,.0f} MB left, and the capture ends at {limit:,.0f} MB"
    inodes = min_free_inodes(len(status.tickers))
    if capture.free_inodes is not None and capture.free_inodes < DISK_FACTOR * inodes:
        yield (
            "disk",
            f"the disk has {capture.free_inodes:,} inodes left, and the capture ends at {inodes:,}",
        )
    if status.state in ("ending", "ended"):
        return
    if capture.status_age_s > STALLED_S:
        yield "stalled", f"no status of the capture for {capture.status_age_s:,.0f} s"
    if capture.disconnected_s > DISCONNECTED_S:
        retry = status.retry
        reason = f", attempt {retry.attempt}: {retry.reason}" if retry else ""
        yield "disconnected", f"not connected for {capture.disconnected_s:,.0f} s{reason}"
    if status.behind_s > max(BEHIND_S, BEHIND_S * settings.flush_interval):
        yield (
            "queue",
            f"{status.backlog:,} trades wait for the disk, the oldest for {status.behind_s:,.0f} s",
        )
    if sentence := publishing_warning(status):
        yield "publishing", sentence
    if sentence := _describe_lag(status):
        yield "lag", sentence
    last_trades = {name: utc_datetime(stamp) for name, stamp in status.last.items()}
    began = capture.now - timedelta(seconds=status.elapsed_s)
    silent = find_silent(status.tickers, last_trades, began, capture.now)
    for ticker, seconds in silent.items():
        yield "late", _silence_warning(ticker, seconds)


def find_silent(
    tickers: Iterable[str], last_trades: Mapping[str, datetime], begin: datetime, now: datetime
) -> dict[str, float]:
    """Return tickers without trades for over ``SILENT_S`` of market hours, with those seconds.

    ``begin`` is the start of the session, for tickers without a trade.
    """
    waited = {
        ticker: open_seconds(market_of(ticker), last_trades.get(ticker, begin), now)
        for ticker in tickers
        if (now - last_trades.get(ticker, begin)).total_seconds() >= SILENT_S
    }
    return {ticker: seconds for ticker, seconds in waited.items() if seconds >= SILENT_S}


def publishing_warning(status: CaptureStatus) -> str:
    """Return a sentence if publishing falls behind, or nothing."""
    if status.unpublished < 2 or status.publishing_s <= PUBLISHING_S:
        return ""
    return (
        f"{status.unpublished:,} windows wait to be published, the oldest for "
        f"{status.publishing_s:,.0f} s"
    )


def _describe_lag(status: CaptureStatus) -> str:
    if status.feed_lag_s >= LAG_WARNING_S:
        return f"the feed is {status.feed_lag_s:,.0f} s behind"
    return _lag_warning(status.lag_ms) if status.lag_ms > LATE_MS else ""


def _lag_warning(lag_ms: float) -> str:
    return f"trades arrive {lag_ms / MS_PER_SECOND:,.0f} s after the exchange's time"


def _silence_warning(ticker: str, seconds: float) -> str:
    return f"no {ticker} trades for {seconds / 60:,.0f} minutes of market hours"


@dataclass(slots=True)
class StalenessMonitor:
    """Records each problem once, and again only after it has ended; one thread."""

    journal: SessionJournal
    intake: Intake
    recorder: Recorder
    _late: bool = False
    _is_publishing_late: bool = False
    _silent: set[str] = field(default_factory=set)

    def check(self, stamp: int, status: CaptureStatus) -> None:
        """Record the problems that are new at ``stamp`` (epoch ns)."""
        lag_ms, was_late = self.recorder.latest_lag_ms, self._late
        self._late = lag_ms > (LATE_MS / 2 if was_late else LATE_MS)
        if self._late and not was_late and not self.journal.heard_until:  # that has a warning
            self.journal.on_notice(_lag_warning(lag_ms))
        warning, was_late = publishing_warning(status), self._is_publishing_late
        self._is_publishing_late = bool(warning)
        if warning and not was_late:
            self.journal.on_notice(warning)
        silent = self.silent_tickers(stamp)
        new = [ticker for ticker in silent if ticker not in self._silent]
        if len(new) > _MAX_SILENT_NOTICES:
            self.journal.on_notice(
                f"no trades of {len(new):,} tickers for {SILENT_S / 60:,.0f} minutes of market "
                f"hours or more: {', '.join(new[:_MAX_SILENT_NOTICES])} and others"
            )
        else:
            for ticker in new:
                self.journal.on_notice(_silence_warning(ticker, silent[ticker]))
        self._silent = set(silent)

    def silent_tickers(self, stamp: int) -> dict[str, float]:
        """Return the tickers that are silent at ``stamp`` (epoch ns), with the seconds.

        A ticker that was added during the session counts from then.
        """
        report = self.journal.report
        times = dict(report.added_at)
        for ticker, last in dict(self.intake.last_trade_at).items():
            times[ticker] = max(utc_datetime(last), times.get(ticker, utc_datetime(last)))
        return find_silent(report.tickers, times, report.started, utc_datetime(stamp))
