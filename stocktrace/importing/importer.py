"""Import of frames that no connection received, such as a third-party CSV file, as a session.

Its tapes are staged in a temporary folder. The session exists once that folder has its name, with
all tapes in it: before it, nothing has happened; after it, ``publish_tapes`` or a recovery does the
rest. The frames go through the code that records any tape: the same schema, the same files, the
same quarantine; ``verify`` can check them and ``requeue`` put repaired rows back. No mark on the
tapes reports a connection, so the coverage has no listening, except where a merge knows it.

The session of a file is named after its content: a file is imported once, whatever its name.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError
from stocktrace.importing.csv_source import CsvSource, EmptySource, TimedFrame
from stocktrace.intervals import CoverageInterval
from stocktrace.marks import CoveredMark, EndedMark, OpeningMark
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.journal import SessionJournal, new_report, report_gaps
from stocktrace.record.publish import publish_window, rebuild_window, upload_session
from stocktrace.sessions.catalog import read_report, recovered_state
from stocktrace.sessions.report import Books, SessionReport, SessionState
from stocktrace.settings import Settings
from stocktrace.store import files, lock
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import RollPolicy, WindowId, WindowSpec, new_import
from stocktrace.store.quarantine import parse_quarantine
from stocktrace.store.tape import TapeWriter
from stocktrace.text import encodable
from stocktrace.units import NS_PER_DAY, SECONDS_PER_DAY, utc_datetime

# Days whose tapes are open at once; frames that jump between more days cost more windows.
_OPEN_DAYS = 64
# Enough rows to detect wrong columns or times.
_FIRST_ROWS = 1000
# How many reasons of refusals are reported.
_REASONS = 5
_REFUSED_LINES = 1000


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
    """The tapes of a session: one for each UTC day of receipt, more if one grows too large."""

    folder: Path
    origin: ImportOrigin
    windows: list[str] = field(default_factory=list)
    #: The first receive time (epoch ns).
    first: int | None = None
    _open: dict[int, tuple[WindowSpec, TapeWriter]] = field(default_factory=dict)
    _last: int = 0
    _policy: RollPolicy = field(
        default_factory=lambda: RollPolicy(SECONDS_PER_DAY, Settings.load().roll_size)
    )

    def write(self, blocks: Iterable[Iterable[TimedFrame]]) -> None:
        """Write all frames and the coverage, and close the tapes: everything is on disk."""
        try:
            for frames in blocks:
                self._append(frames)
            self._mark_coverage()
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

    def _mark_coverage(self) -> None:
        coverage = self.origin.coverage
        if coverage:
            end = max(self._last, *(interval.end for interval in coverage))
            tape = self._tape(self._last)
            for interval in coverage:
                facts = asdict(interval)
                del facts["lag_s"]  # a merge has the time of either recorder
                tape.append_mark(CoveredMark(end, **facts))
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


def import_frames(
    layout: Layout,
    origin: ImportOrigin,
    blocks: Iterable[Iterable[TimedFrame]],
    clock: Clock = SYSTEM_CLOCK,
) -> SessionReport | None:
    """Import frames; ``None`` if another process is importing them, or has just imported them."""
    digest = origin.digest
    with contextlib.ExitStack() as claimed:
        with files.temporary_folder(layout.tapes(digest)) as staged:
            tapes = SessionTapes(staged, origin)
            tapes.write(blocks)
            session = origin.name(tapes.first or 0, digest)
            try:
                claimed.enter_context(lock.hold_lock(layout.lock(session), {"session": session}))
            except BlockingIOError:
                return None
            if layout.imported_sessions(digest):
                return None
            files.publish_file(staged, layout.tapes(session))
        return publish_tapes(layout, session, tapes, clock, content=digest)


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
    """Publish a session whose folder of tapes has its name; the caller holds the session's lock."""
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
    report.gaps = report_gaps(CoverageBuilder.of(coverage))
    hash_files(layout, report, write_coverage(layout, session, coverage))
    report.state = state or recovered_state(session)
    report.ended = utc_datetime(max((interval.end for interval in coverage), default=now))
    journal.close()
    upload_session(layout, report, clock)
    return report


# --- CSV files ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportPreview:
    """The result that an import would have; ``reasons`` are those of refused rows, each once."""

    books: Books
    tickers: int
    reasons: list[str]


def find_import(layout: Layout, source: CsvSource) -> str | None:
    """Return the session of an earlier import of the file, or ``None``.

    Raises:
        StoreError: it was imported with another mapping.
    """
    for session in layout.imported_sessions(source.digest):
        report = read_report(layout, session)
        facts = source.facts if report is None else report.settings
        other = [name for name, text in source.facts.items() if facts.get(name) != text]
        if other:
            raise StoreError(
                f"{source.path} was imported before, as session {session}, with another mapping "
                f"({', '.join(f'{name} {facts.get(name)!r}' for name in other)}): "
                "docs/operations.md says how to undo that import."
            )
        return session
    return None


def preview_import(layout: Layout, source: CsvSource, *, whole: bool = True) -> ImportPreview:
    """Record and count a file in a temporary folder, or only its first rows.

    Raises:
        EmptySource: it has no rows.
        StoreError: it cannot be read.
    """
    session = new_import(0, source.digest)
    books = Books()
    tickers: set[str] = set()
    reasons: dict[str, None] = {}
    blocks = source.blocks()
    if not whole:
        blocks = (rows[:_FIRST_ROWS] for rows in itertools.islice(blocks, 1))
    # A data folder that does not exist is not created for it.
    temporary: AbstractContextManager[Path | str] = (
        files.temporary_folder(layout.scratch)
        if layout.root.is_dir()
        else tempfile.TemporaryDirectory()
    )
    with temporary as folder:
        scratch = Layout(Path(folder))
        tapes = SessionTapes(scratch.tapes(session), ImportOrigin("", source.facts, ""))
        tapes.write(blocks)
        for name in tapes.windows:
            window = WindowId(session, name)
            sealed = rebuild_window(scratch, window)
            books.add(sealed.books)
            tickers |= {name for name, counts in sealed.tickers.items() if counts.recorded}
            quarantine = scratch.quarantine(window)
            if quarantine.exists():
                with quarantine.open(encoding="utf-8") as file:
                    refused = parse_quarantine(itertools.islice(file, _REFUSED_LINES))
                    reasons |= dict.fromkeys(row.reason for row in refused)
    if not books.frames:
        raise EmptySource(f"{source.path} has no rows.")
    return ImportPreview(books, len(tickers), list(reasons)[:_REASONS])


def import_file(layout: Layout, source: CsvSource) -> SessionReport | None:
    """Import a file; ``None`` if another process is importing it, or has just imported it.

    Raises:
        EmptySource: it has no rows.
        StoreError: it cannot be read, or not one of its first rows passes the schema; nothing was
            imported.
    """
    preview = preview_import(layout, source, whole=False)
    if not preview.books.recorded:
        raise StoreError(
            f"Not one of the first {preview.books.trades:,} rows of {source.path} is valid, the "
            f"first because: {preview.reasons[0]}. Nothing was imported: check the mapping of its "
            "columns, the unit of its times and their time zone."
        )
    facts = {"source": encodable(str(source.path.resolve())), **source.facts}
    reason = f"imported from {encodable(source.path.name)}"
    return import_frames(layout, ImportOrigin(source.digest, facts, reason), source.blocks())
