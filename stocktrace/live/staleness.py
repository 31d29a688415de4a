"""What a connection that is alive can still be: late, or silent where it should not be."""
# MERGED """Looks, once a minute, for what a live connection can still lack; tells it in the journal."""

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
# A liquid stock trades many times a minute; one that is silent for this long is worth a word.
SILENT_S = 900.0


@dataclass(slots=True)
class StalenessRules:
    """Looks now and then; each thing is told once, and again only after it was well."""

    _late: bool = False
    _silent: set[str] = field(default_factory=set)

    def check_lag(self, latest_ms: float) -> str | None:
        """A sentence when trades begin to come late (ms after the exchange's time)."""
        was, self._late = self._late, latest_ms > (LATE_MS / 2 if self._late else LATE_MS)
        if self._late and not was:
            return lag_warning(latest_ms)
        return None

    def check_silence(
        self, tickers: Iterable[str], since: Mapping[str, datetime], begin: datetime, now: datetime
    ) -> list[str]:
        """A sentence for each ticker newly found silent: its market was open for long enough.

        ``since`` has the last trade of each ticker, ``begin`` is when listening began.
        """
        found = find_silent(tickers, since, begin, now)
        fresh = [
            silence_warning(ticker, waited)
            for ticker, waited in found.items()
            if ticker not in self._silent
        ]
        self._silent = set(found)
        return fresh


def lag_warning(lag_ms: float) -> str:
    """That trades come late, in words; ms after the exchange's time."""
    return f"trades come {lag_ms / MS_PER_SECOND:,.0f} s after the exchange's time"


def silence_warning(ticker: str, seconds: float) -> str:
    """That a ticker is silent, in words; for so many seconds of its market's time."""
    return f"no trade of {ticker} for {seconds / 60:,.0f} minutes of its market"


def find_silent(
    tickers: Iterable[str], since: Mapping[str, datetime], begin: datetime, now: datetime
) -> dict[str, float]:
    """Tickers without a trade for over ``SILENT_S`` of their market's time, with those seconds."""
    waited = {
        ticker: open_seconds(market_of(ticker), since.get(ticker, begin), now)
        for ticker in tickers
        if (now - since.get(ticker, begin)).total_seconds() >= SILENT_S
    }
    return {ticker: seconds for ticker, seconds in waited.items() if seconds >= SILENT_S}


@dataclass(frozen=True, slots=True)
class StalenessMonitor:
    """Applies a vigil to a running capture; one thread."""

    journal: SessionJournal
    intake: Intake
    recorder: Recorder
    vigil: StalenessRules = field(default_factory=StalenessRules)

    def check(self, stamp: int) -> None:
        """Tell what is new at ``stamp`` (epoch ns)."""
        journal, report = self.journal, self.journal.report
        if sentence := self.vigil.check_lag(self.recorder.latest_lag_ms):
            journal.on_notice(sentence)
        signs = self._last_trades()
        for sentence in self.vigil.check_silence(
            report.tickers, signs, report.started, utc_datetime(stamp)
        ):
            journal.on_notice(sentence)

    def silent(self, stamp: int) -> dict[str, float]:
        """Tickers that are silent at ``stamp`` (epoch ns), with the seconds."""
        report = self.journal.report
        return find_silent(report.tickers, self._last_trades(), report.started, utc_datetime(stamp))

    def _last_trades(self) -> dict[str, datetime]:
        """When each ticker traded last, or was asked for, if that was not at the start."""
        signs = dict(self.journal.report.added)
        for ticker, stamp in dict(self.intake.last_trade_at).items():
            signs[ticker] = max(utc_datetime(stamp), signs.get(ticker, utc_datetime(stamp)))
        return signs
