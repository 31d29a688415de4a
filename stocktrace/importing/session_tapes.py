"""A session made of frames that no connection received: its tapes, and how they are published.

The tapes are staged in a temporary folder. The session exists once that folder has its name, with
all tapes in it: before it, nothing has happened; after it, ``publish_tapes`` or a recovery does the
rest. The frames go through the code that records any tape: the same schema, the same files, the
same quarantine; ``verify`` can check them and ``requeue`` put repaired rows back. No mark on the
tapes reports a connection, so the coverage has no listening, except where a merge knows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stocktrace.clock import Clock
from stocktrace.importing.csv_source import TimedFrame
from stocktrace.intervals import CoverageInterval
from stocktrace.marks import CoveredMark, EndedMark, OpeningMark
from stocktrace.query.duplicates import count_session_duplicates
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.journal import SessionJournal, new_report, report_gaps
from stocktrace.record.publish import publish_window
from stocktrace.record.upload import upload_session
from stocktrace.sessions.catalog import recovered_state
from stocktrace.sessions.report import SessionReport, SessionState
from stocktrace.settings import Settings
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, new_import
from stocktrace.store.tape import TapeWriter
from stocktrace.store.window import RollPolicy, WindowSpec
from stocktrace.units import NS_PER_DAY, SECONDS_PER_DAY, utc_datetime

# Days whose tapes are open at once; frames that jump between more days cost more windows.
_OPEN_DAYS = 64


@dataclass(frozen=True, slots=True)
class ImportOrigin:
    """Where the frames of a session come from.

    ``digest`` names the session: equal frames have the same. ``facts`` (with a ``source``) are for
    its report and its tapes, ``reason`` is for a person. ``coverage`` says who listened when, if
    that is known. ``name`` makes the session's name from the first receive time and the digest.
    """

    digest: str
    facts: dict[str, str]
    reason: str
    coverage: tuple[CoverageInterval, ...] = ()
    name: Callable[[int, str], str] = new_import


@dataclass(slots=True)
class SessionTapes:
    """The tapes of a session: one for each UTC day of receipt, more if one grows too large.

    ``first`` is the first receive time.
    """

    folder: Path
    origin: ImportOrigin
    windows: list[str] = field(default_factory=list)
    first: int | None = None
    _policy: RollPolicy = field(init=False)
    _open: dict[int, tuple[WindowSpec, TapeWriter]] = field(default_factory=dict)
    _last: int = 0

    def __post_init__(self) -> None:
        self._policy = RollPolicy(SECONDS_PER_DAY, Settings.load().roll_size)

    def write(self, blocks: Iterable[Iterable[TimedFrame]]) -> None:
        """Write all frames and the coverage, and close the tapes: everything is on disk."""
        try:
            for frames in blocks:
                self._append(frames)
            self._mark(self.origin.coverage)
        finally:
            while self._open:
                self._open.popitem()[1][1].close()

    def _append(self, frames: Iterable[TimedFrame]) -> None:
        # A frame without a time is received with the one before it.
        for stamp, group in itertools.groupby(frames, key=lambda frame: frame[0]):
            if stamp is not None and stamp >= 0:
                self._last = stamp
                self.first = stamp if self.first is None else min(self.first, stamp)
            self._tape(self._last).append(self._last, [frame for _, frame in group])

    def _mark(self, coverage: Sequence[CoverageInterval]) -> None:
        if coverage:
            end = max(self._last, *(interval.end for interval in coverage))
            tape = self._tape(self._last)
            for interval in coverage:
                tape.append_mark(CoveredMark(end, **asdict(interval)))
            tape.append_mark(EndedMark(end))

    def _tape(self, stamp: int) -> TapeWriter:
        day = stamp // NS_PER_DAY
        if day in self._open:
            window, tape = self._open[day]
            if not self._policy.due(window, stamp, tape.size):
                return tape
            self._open.pop(day)[1].close()
        elif len(self._open) >= _OPEN_DAYS:
            self._open.pop(next(iter(self._open)))[1].close()
        window = self._policy.open("", len(self.windows) + 1, stamp)
        tape = TapeWriter(self.folder / f"{window.name}.tape")
        self._open[day] = window, tape
        self.windows.append(window.name)
        tape.append_mark(
            OpeningMark(stamp, connected=False, tickers=(), imported=self.origin.facts)
        )
        return tape


def publish_tapes(
    layout: Layout,
    session: str,
    tapes: SessionTapes,
    clock: Clock,
    *,
    state: SessionState | None = None,
    event: str = "import",
    **event_facts: object,
) -> SessionReport:
    """Publish a session whose folder of tapes has its name; the caller holds the session's lock.

    Write the report and an audit ``event``, publish the windows and the coverage, and send
    everything to the lake.
    """
    now, origin, coverage = clock.wall(), tapes.origin, tapes.origin.coverage
    lake = {"lake": layout.lake} if layout.lake else {}
    began = min((interval.start for interval in coverage), default=now)
    report = new_report(session, [], began, {**origin.facts, **lake})
    report.reason = origin.reason
    report.unpublished = list(tapes.windows)
    journal = SessionJournal(layout, report, AuditLog(layout.audit, session, clock))
    journal.audit(event, source=origin.facts["source"], **event_facts)
    journal.save()
    for window in tapes.windows:
        journal.window_published(publish_window(layout, WindowId(session, window), whole=False))
    report.tickers = sorted(name for name, books in report.per_ticker.items() if books.recorded)
    report.duplicates = count_session_duplicates(layout, session, report.dates)
    report.gaps = report_gaps(CoverageBuilder(list(coverage)))
    hash_files(layout, report, write_coverage(layout, session, coverage))
    report.state = state or recovered_state(session)
    report.ended = utc_datetime(max((interval.end for interval in coverage), default=now))
    journal.save()
    upload_session(layout, report, clock)
    return report
