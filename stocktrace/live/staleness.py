"""Finds what a live connection can still lack: trades that are on time, and tickers that trade."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stocktrace.calendar import market_of, open_seconds
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal
from stocktrace.record.recorder import Recorder
from stocktrace.units import MS_PER_SECOND, utc_datetime

# Finnhub's usual latency is 0.1 s, its incidents are minutes (FINNHUB.md, #42, #84).
LATE_MS = 60_000.0
# A liquid stock trades many times a minute: after so much silence it deserves a warning.
SILENT_S = 900.0


@dataclass(slots=True)
class StalenessRules:
    """Reports each problem once, and again only after it has ended."""

    _late: bool = False
    _silent: set[str] = field(default_factory=set)

    def check_lag(self, latest_ms: float) -> str | None:
        """Return a sentence when trades begin to arrive late (ms after the exchange's time)."""
        was_late, self._late = self._late, latest_ms > (LATE_MS / 2 if self._late else LATE_MS)
        if self._late and not was_late:
            return lag_warning(latest_ms)
        return None

    def check_silence(
        self,
        tickers: Iterable[str],
        last_trades: Mapping[str, datetime],
        begin: datetime,
        now: datetime,
    ) -> list[str]:
        """Return a sentence for each ticker that is newly silent; ``begin`` starts the session."""
        silent = find_silent(tickers, last_trades, begin, now)
        sentences = [
            silence_warning(ticker, seconds)
            for ticker, seconds in silent.items()
            if ticker not in self._silent
        ]
        self._silent = set(silent)
        return sentences


def lag_warning(lag_ms: float) -> str:
    """Return a sentence about late trades."""
    return f"trades arrive {lag_ms / MS_PER_SECOND:,.0f} s after the exchange's time"


def silence_warning(ticker: str, seconds: float) -> str:
    """Return a sentence about a ticker that is silent for so many seconds of market hours."""
    return f"no {ticker} trades for {seconds / 60:,.0f} minutes of market hours"


def find_silent(
    tickers: Iterable[str], last_trades: Mapping[str, datetime], begin: datetime, now: datetime
) -> dict[str, float]:
    """Return tickers without trades for over ``SILENT_S`` of market hours, with those seconds."""
    waited = {
        ticker: open_seconds(market_of(ticker), last_trades.get(ticker, begin), now)
        for ticker in tickers
        if (now - last_trades.get(ticker, begin)).total_seconds() >= SILENT_S
    }
    return {ticker: seconds for ticker, seconds in waited.items() if seconds >= SILENT_S}


@dataclass(frozen=True, slots=True)
class StalenessMonitor:
    """Applies the rules to a running capture, and records notices; one thread."""

    journal: SessionJournal
    intake: Intake
    recorder: Recorder
    rules: StalenessRules = field(default_factory=StalenessRules)

    def check(self, stamp: int) -> None:
        """Record the problems that are new at ``stamp`` (epoch ns)."""
        journal, report = self.journal, self.journal.report
        if sentence := self.rules.check_lag(self.recorder.latest_lag_ms):
            journal.on_notice(sentence)
        for sentence in self.rules.check_silence(
            report.tickers, self._last_trades(), report.started, utc_datetime(stamp)
        ):
            journal.on_notice(sentence)

    def silent_tickers(self, stamp: int) -> dict[str, float]:
        """Return the tickers that are silent at ``stamp`` (epoch ns), with the seconds."""
        report = self.journal.report
        return find_silent(report.tickers, self._last_trades(), report.started, utc_datetime(stamp))

    def _last_trades(self) -> dict[str, datetime]:
        """When each ticker traded last, or was added during the session."""
        times = dict(self.journal.report.added_at)
        for ticker, stamp in dict(self.intake.last_trade_at).items():
            times[ticker] = max(utc_datetime(stamp), times.get(ticker, utc_datetime(stamp)))
        return times
