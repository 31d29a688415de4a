"""A session in a line: by its report if it ended, else by the last status that it left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import read_last_status
from stocktrace.store.layout import Layout
from stocktrace.store.source import DataSource


def never_recorded(shelf: DataSource, tickers: Iterable[str]) -> tuple[list[str], set[str]]:
    """Those of ``tickers`` that were never recorded, and what was, if there are any.

    The latest sessions are looked at first, and no more than is needed to find all of them. A
    ticker counts as recorded if a session asked for it, though nothing came of it.
    """
    unknown, known = dict.fromkeys(tickers), set[str]()
    for some in _recorded(shelf) if unknown else ():
        known |= some
        unknown = dict.fromkeys(ticker for ticker in unknown if ticker not in some)
        if not unknown:
            break
    return list(unknown), known


def _recorded(shelf: DataSource) -> Iterator[set[str]]:
    for text in shelf.reports():
        try:
            report = SessionReport.decode(text)
        except ValueError:  # `stocktrace sessions` names it
            continue
        changed = (ticker for change in report.changes for ticker in change.removed)
        yield {*report.tickers, *report.per_ticker, *report.added, *changed}
    for date in reversed(shelf.dates()):
        yield shelf.tickers(date)


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One session; ``state`` as of ``state_of``, or ``damaged`` if its report cannot be read.

    ``trades`` is how many were received, of one that died until it last told (twice a second), and
    ``None`` if it never did. ``outages`` of its ``gaps`` are not the moment of connecting.
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

    @classmethod
    def of(cls, layout: Layout, report: SessionReport) -> Self:
        """The session of ``report``, as it stands now."""
        state, books = report.state, report.books
        ended = report.ended or datetime.now(UTC)
        if state not in ("running", "crashed"):
            return cls(
                report.session,
                state,
                report.started,
                (ended - report.started).total_seconds(),
                len(report.tickers),
                books.trades,
                len(report.gaps),
                report.gap_s,
                len(report.outages),
                report.reconnects,
                books.quarantined,
                len(report.unpublished),
            )
        status = read_last_status(layout, report.session)
        if status is None:
            return cls(report.session, state, report.started, 0.0, len(report.tickers), None)
        return cls(
            report.session,
            state,
            report.started,
            status.elapsed_s,
            len(status.tickers),
            status.trades,
            status.gaps,
            status.gap_s,
            status.outages,
            status.reconnects,
            status.quarantined,
            status.rolled - status.published,
        )
