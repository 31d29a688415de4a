"""The sessions of a data folder, as the first page lists them."""

from __future__ import annotations

from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.summary import CRASHED, SessionSummary
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_session

# More than a year of days; who looks for older ones has `stocktrace sessions`.
MAX_SESSIONS = 500


class SessionList:
    """Lists sessions, newest first; the reports of those that ended are read once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[tuple[str, int], SessionSummary] = {}

    def sessions(self) -> list[SessionSummary]:
        """The newest ``MOST``."""
        names = [path.stem for path in self._layout.sessions.glob("*.json")]
        found: dict[tuple[str, int], SessionSummary] = {}
        for session in sorted(filter(is_session, names), reverse=True)[:MAX_SESSIONS]:
            try:
                changed = self._layout.report(session).stat().st_mtime_ns
            except FileNotFoundError:
                continue
            found[session, changed] = self._known.get((session, changed)) or self._read(session)
        lasting = ("running", CRASHED)
        self._known = {key: one for key, one in found.items() if one.state not in lasting}
        return list(found.values())

    def _read(self, session: str) -> SessionSummary:
        try:
            return SessionSummary.of(self._layout, SessionReport.read(self._layout.report(session)))
        except (ValueError, OSError):
            return SessionSummary(session, "damaged")
