"""Facts on the tapes of a session, which its report and its coverage must repeat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from stocktrace.marks import (
    ConnectedMark,
    EndedMark,
    Mark,
    OpeningMark,
    RefusedMark,
    SubscriptionMark,
)
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.journal import report_gaps
from stocktrace.sessions.report import SessionReport
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from stocktrace.units import utc_datetime


@dataclass(slots=True)
class TapeFacts:
    """Facts on the tapes of a session; times are epoch ns.

    ``last`` is their last sign of life, where the coverage ends. The first line of a later tape is
    not a sign of life: it is written before the first frames of its window, which may be missing
    after a crash. ``is_captured``: a capture wrote them, not an import.
    """

    coverage: CoverageBuilder = field(default_factory=CoverageBuilder)
    started: int = 0
    last: int = 0
    tickers: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    is_captured: bool = False
    has_ended: bool = False

    def add(self, entry: TapeFrames | Mark) -> None:
        """Take in the next entry."""
        if isinstance(entry, TapeFrames):
            self.coverage.data_received(entry.stamp)
            self.last = entry.stamp
            return
        self.coverage.add(entry)
        match entry:
            case OpeningMark() if self.last:
                return
            case OpeningMark():
                self.started, self.tickers = entry.stamp, list(entry.tickers)
                self.is_captured = not entry.imported
            case ConnectedMark():
                self.tickers = list(entry.tickers)
            case SubscriptionMark():
                self.tickers = list(entry.change(self.tickers))
                self.refused = {
                    name: text for name, text in self.refused.items() if name not in entry.added
                }
            case RefusedMark():
                self.refused |= dict.fromkeys(entry.tickers, entry.text)
            case EndedMark():
                self.has_ended = True
        self.last = entry.stamp

    def fill(self, report: SessionReport) -> None:
        """Put into a report what the tapes say."""
        report.gaps = report_gaps(self.coverage)
        report.reconnects = self.coverage.reconnects
        report.refused = self.refused
        if self.is_captured:
            report.started, report.tickers = utc_datetime(self.started), self.tickers
        else:
            tickers = report.per_ticker.items()
            report.tickers = sorted(name for name, books in tickers if books.recorded)


def read_tape_facts(layout: Layout, session: str) -> TapeFacts:
    """Read the marks and receive times of all tapes of a session."""
    facts = TapeFacts()
    for entry in read_entries(layout, session):
        facts.add(entry)
    facts.coverage.close(facts.last)
    return facts


def read_entries(layout: Layout, session: str) -> Iterator[TapeFrames | Mark]:
    """Yield the entries of all tapes of a session, in order."""
    return chain.from_iterable(map(TapeReader, layout.session_tapes(session).values()))
