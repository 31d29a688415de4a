"""Looks, once a minute, for what a live connection can still lack; tells it in the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from stocktrace.deadline import utc
from stocktrace.live.vigil import Vigil, silent
from stocktrace.record.intake import Intake
from stocktrace.record.journal import Journal
from stocktrace.record.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Lookout:
    """Applies a vigil to a running capture; one thread."""

    journal: Journal
    intake: Intake
    recorder: Recorder
    vigil: Vigil = field(default_factory=Vigil)

    def look(self, stamp: int) -> None:
        """Tell what is new at ``stamp`` (epoch ns)."""
        journal, report = self.journal, self.journal.report
        if sentence := self.vigil.lag(self.recorder.latest_lag_ms):
            journal.on_notice(sentence)
        signs = self._signs()
        for sentence in self.vigil.silence(report.tickers, signs, report.started, utc(stamp)):
            journal.on_notice(sentence)

    def silent(self, stamp: int) -> dict[str, float]:
        """Tickers that are silent at ``stamp`` (epoch ns), with the seconds."""
        report = self.journal.report
        return silent(report.tickers, self._signs(), report.started, utc(stamp))

    def _signs(self) -> dict[str, datetime]:
        """When each ticker traded last, or was asked for, if that was not at the start."""
        signs = dict(self.journal.report.joined)
        for ticker, stamp in dict(self.intake.last).items():
            signs[ticker] = max(utc(stamp), signs.get(ticker, utc(stamp)))
        return signs
