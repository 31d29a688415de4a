"""A session in a line, from its report if it has ended, and otherwise from its last status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import read_last_status
from stocktrace.store.layout import Layout
from stocktrace.store.source import DataSource, tickers_of_date


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One session; ``state`` is that of its report, or ``damaged`` if that cannot be read.

    ``trades`` counts received trades: of a crashed session up to its last status, or ``None``
    without one. ``outages`` are the ``gaps`` without that before the first connection.
    ``connection`` is that of a running session.
    """

    session: str
    state: str
    started: datetime | None = None
    seconds: float = 0.0
    tickers: int = 0
    trades: int | None = 0
    gaps: int = 0
    gap_s: float = 0.0
    outages: int = 0
    reconnects: int = 0
    quarantined: int = 0
    unpublished: int = 0
    connection: str = ""

    @property
    def present_state(self) -> str:
        """The state for a person: a running session may not be connected, or be behind."""
        return self.state if self.connection in ("", "connected") else self.connection

    @classmethod
    def of(cls, layout: Layout, report: SessionReport) -> Self:
        """Return the summary of a report that ``catalog.read_session`` returned."""
        head = report.session, report.state, report.started
        if report.state not in ("running", "crashed"):
            ended = report.ended or datetime.now(UTC)
            return cls(
                *head,
                (ended - report.started).total_seconds(),
                len(report.tickers),
                report.books.trades,
                len(report.gaps),
                report.gap_s,
                len(report.outages),
                report.reconnects,
                report.books.quarantined,
                len(report.unpublished),
            )
        status = read_last_status(layout, report.session)
        if status is None:
            return cls(*head, 0.0, len(report.tickers), None)
        return cls(
            *head,
            status.elapsed_s,
            len(status.tickers),
            status.trades,
            status.all_gaps,
            status.all_gap_s,
            status.all_outages,
            status.reconnects,
            status.quarantined,
            status.unpublished,
            status.connection if report.state == "running" else "",
        )


def find_unrecorded(source: DataSource, tickers: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the ``tickers`` that no session recorded, and the recorded ones if there are any.

    Reads the latest sessions first, and no more than needed. A ticker counts as recorded if a
    session captured it, even without a trade.
    """
    unknown, recorded = list(dict.fromkeys(tickers)), set[str]()
    captured = _recorded_tickers(source)
    while unknown and (names := next(captured, None)) is not None:
        recorded |= names
        unknown = [ticker for ticker in unknown if ticker not in names]
    return unknown, recorded


def _recorded_tickers(source: DataSource) -> Iterator[set[str]]:
    for text in source.reports():
        try:
            report = SessionReport.decode(text)
        except ValueError:  # `stocktrace sessions` reports it
            continue
        removed = (ticker for change in report.changes for ticker in change.removed)
        yield {*report.tickers, *report.per_ticker, *report.added_at, *removed}
    for date in reversed(source.dates()):
        yield tickers_of_date(source, date)
