"""The sessions of a data folder, as the first page lists them."""

from __future__ import annotations

from stocktrace.report import Report
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_session
from stocktrace.summary import DEAD, Summary

# More than a year of days; who looks for older ones has `stocktrace sessions`.
MOST = 500


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
        lasting = ("running", DEAD)
        self._known = {key: one for key, one in found.items() if one.state not in lasting}
        return list(found.values())

    def _read(self, session: str) -> Summary:
        try:
            return Summary.of(self._layout, Report.read(self._layout.report(session)))
        except (ValueError, OSError):
            return Summary(session, "damaged")
