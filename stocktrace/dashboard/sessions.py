"""The sessions of a data folder, as the first page lists them."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from stocktrace.report import Report
from stocktrace.status import Status
from stocktrace.store import lock
from stocktrace.store.layout import Layout, is_session

# More than a year of days; who looks for older ones has `stocktrace sessions`.
MOST = 500


class Summary(msgspec.Struct, frozen=True):
    """One session; times are epoch s, ``state`` is the report's, or ``dead``, or ``damaged``."""

    session: str
    state: str
    started: float = 0.0
    seconds: float = 0.0
    tickers: int = 0
    trades: int = 0
    gaps: int = 0
    gaps_s: float = 0.0
    quarantined: int = 0


class Shelf:
    """Lists sessions, newest first; the reports of those that ended are read once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[tuple[str, int], Summary] = {}

    def sessions(self) -> list[Summary]:
        """The newest ``MOST``."""
        names = [path.stem for path in self._layout.sessions.glob("*.json")]
        found: dict[tuple[str, int], Summary] = {}
        for session in sorted(filter(is_session, names), reverse=True)[:MOST]:
            try:
                changed = self._layout.report(session).stat().st_mtime_ns
            except FileNotFoundError:
                continue
            found[session, changed] = self._known.get((session, changed)) or self._read(session)
        self._known = {key: one for key, one in found.items() if one.state != "running"}
        return [self._alive(one) for one in found.values()]

    def _read(self, session: str) -> Summary:
        try:
            report = Report.read(self._layout.report(session))
        except (ValueError, OSError):
            return Summary(session, "damaged")
        outages = report.outages
        return Summary(
            session,
            report.state,
            report.started.timestamp(),
            ((report.ended or datetime.now(UTC)) - report.started).total_seconds(),
            len(report.tickers),
            report.books.recorded,
            len(outages),
            sum((gap.end - gap.start).total_seconds() for gap in outages),
            report.books.quarantined,
        )

    def _alive(self, one: Summary) -> Summary:
        if one.state != "running":
            return one
        if not lock.is_held(self._layout.lock(one.session)):
            return msgspec.structs.replace(one, state="dead")
        try:
            status = Status.read(self._layout.status(one.session))
        except (FileNotFoundError, ValueError):
            return one
        return msgspec.structs.replace(
            one,
            tickers=len(status.tickers),
            trades=status.recorded,
            gaps=status.outages,
            gaps_s=status.outage_s,
            quarantined=status.quarantined,
        )
