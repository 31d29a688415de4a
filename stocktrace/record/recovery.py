"""Recovery publishes the data of crashed sessions, exactly once.

1. A session has crashed if its report says it runs and nobody holds its lock. Take the lock; a
   running session, or one that another recovery works on, is skipped. After a power cut, a session
   that was finished can have segments again.
2. Set a tape aside that belongs to another session or window. If a window has a plain tape and an
   archive, keep the better one and set the other aside if it differs; the report says so. If a
   window has lost its tape, set its open segments aside. Cut the torn end and holes out of each
   plain tape; the rest of their lines is moved to ``<window>.torn`` beside it and counted. Delete
   temporary files.
3. Rebuild each window with a plain tape through the code that recorded it: its segments are not
   synced, so they are written again. Of a published window, only those that are left are.
4. Also rebuild each window that has an open segment, or is not published, although its tape is
   archived, or segments although it is published: a power cut may bring back deleted ones.
5. Convert every window that has segments, and archive the tapes.
6. Count again: windows that are missing in the report, rows in Parquet, coverage from the marks.
7. Write the report as ``recovered``.
8. Send the outbox to the lake that is set, or that the session was recorded for.

It may be killed anywhere: the next run finds on disk what is left to do.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import ConversionError, LayoutError, StocktraceError, StoreError, describe
from stocktrace.marks import OpeningMark
from stocktrace.query.duplicates import count_window_duplicates
from stocktrace.record.file_hashes import hash_files, update_hashes
from stocktrace.record.journal import SessionJournal, new_report
from stocktrace.record.publish import (
    publish_window,
    rebuilt_copy,
    upload_session,
    with_lake_of_report,
)
from stocktrace.record.tape_facts import read_entries, read_tape_facts
from stocktrace.record.tape_repair import repair_tape
from stocktrace.sessions import catalog
from stocktrace.sessions.report import SessionReport
from stocktrace.store import files, lock
from stocktrace.store.audit import AuditLog, read_logged_session
from stocktrace.store.coverage import write_coverage
from stocktrace.store.dataset import list_published, retry_on_compaction
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeReader, is_foreign, set_aside, settle_tapes
from stocktrace.text import count_of
from stocktrace.units import epoch_ns, utc_datetime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveredSession:
    """A crashed session: ``torn_bytes`` were set aside.

    ``rows`` are those of windows that had segments left. ``upload_error`` says why it is not in the
    lake, if one is set.
    """

    session: str
    windows: int
    rows: int
    torn_bytes: int
    balanced: bool
    upload_error: str = ""


@dataclass(slots=True)
class ConversionResult:
    """Files and rows that were published, and failures as messages."""

    files: int = 0
    rows: int = 0
    failed: list[str] = field(default_factory=list)


def recover(layout: Layout, clock: Clock = SYSTEM_CLOCK) -> list[RecoveredSession]:
    """Recover every crashed session of a data folder.

    Raises:
        StocktraceError: some sessions could not be recovered; the others are.
    """
    outcomes: list[RecoveredSession | None] = []
    failures: list[Exception] = []
    sweep_temporaries(layout)
    AuditLog(layout.audit, "", clock).mend()
    unfinished = catalog.sessions_to_recover(layout)
    for session in [*unfinished, *_sessions_with_segments(layout, unfinished)]:
        try:
            outcomes.append(recover_session(layout, session, clock))
        except (StocktraceError, OSError) as error:
            failures.append(error)
            reason = describe(error, layout.root)
            log.error("session %s cannot be recovered: %s", session, reason)  # noqa: TRY400
    if len(failures) == 1 and isinstance(failures[0], StocktraceError):
        raise failures[0]
    if failures:
        raise StoreError(
            f"{count_of(len(failures), 'session')} cannot be recovered. The first failed: "
            f"{describe(failures[0], layout.root)}"
        ) from failures[0]
    return [outcome for outcome in outcomes if outcome is not None]


def _sessions_with_segments(layout: Layout, except_sessions: Sequence[str]) -> list[str]:
    """List the finished sessions of which a power cut has undone the deletion of segments."""
    sessions: set[str] = set()
    for path in layout.all_segments():
        with contextlib.suppress(LayoutError):
            sessions.add(WindowId.parse(path).session)
    return [
        session
        for session in sorted(sessions.difference(except_sessions))
        if not catalog.is_in_use(layout, session)
    ]


def sweep_temporaries(layout: Layout) -> None:
    """Delete temporary files and folders of crashed processes."""
    for path in layout.orphaned_temporaries():
        files.remove_abandoned(path)


def recover_session(
    layout: Layout, session: str, clock: Clock = SYSTEM_CLOCK
) -> RecoveredSession | None:
    """Recover one crashed session; ``None`` if another process works on it, or has done it.

    Raises:
        StocktraceError: it cannot be recovered; its data stays.
    """
    with claim_session(layout, session) as claimed:
        if not claimed:
            return None
        if catalog.is_finished(layout, session) and not _unfinished_windows(layout, session, ()):
            return None
        try:
            return _recover_claimed(layout, session, clock)
        except ConversionError as error:
            raise ConversionError(
                f"{error} Run `stocktrace verify --repair`, then `stocktrace recover`."
            ) from error


@contextlib.contextmanager
def claim_session(layout: Layout, session: str) -> Iterator[bool]:
    """Hold a session's lock; yields ``False`` if another process, or machine, has it."""
    if catalog.host_of_session(layout, session):
        yield False
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.hold_lock(layout.lock(session), {"session": session}))
        except BlockingIOError:
            yield False
        else:
            yield True


def _recover_claimed(layout: Layout, session: str, clock: Clock) -> RecoveredSession:
    report = catalog.read_report(layout, session) or _report_from_tape(layout, session, clock)
    _check_age(layout, report)
    layout = with_lake_of_report(layout, report)
    journal = SessionJournal(layout, report, AuditLog(layout.audit, session, clock))
    crashed = report.state == "running"
    with lock.publish_lock(layout, session):  # a conversion of the capture may still run
        for temporary in layout.temporaries(session):
            files.remove_abandoned(temporary)
        windows = _unfinished_windows(layout, session, report.unpublished)
        # Until the last step, the report lists the windows that are not published yet.
        report.unpublished = sorted({*report.unpublished, *(window.window for window in windows)})
        journal.save()
        changed_windows = set(report.unpublished)
        for window in windows:
            _set_foreign_tapes_aside(layout, window, journal)
            _settle_tapes(layout, window, journal)
            _set_open_segments_aside(layout, window, journal)
        _repair_tapes(layout, session, journal)
    torn = sum(path.stat().st_size for path in layout.tapes(session).glob("[0-9]*.torn"))
    rows = 0
    for window in windows:
        whole = is_recorded_completely(layout, window) and not (
            layout.archived_tape(window).exists() and _can_rebuild(layout, window)
        )
        published = publish_window(layout, window, whole=whole, sending=False)
        if published.rebuilt_window is not None and window.window not in report.windows:
            journal.add_counts(published.rebuilt_window)
        rows += sum(published.file.rows.values()) if published.file is not None else 0
    recount_report(layout, session, report, journal)
    if crashed:
        _close_report(layout, session, report, torn)
    else:
        quarantine = [layout.quarantine(WindowId(session, name)) for name in changed_windows]
        update_hashes(layout, report, quarantine)
    text = f"session {session} recovered: {count_of(len(windows), 'window')}, "
    text += f"{count_of(rows, 'trade')} published"
    if torn:
        text += f", {count_of(torn, 'torn byte')} set aside"
    names = [window.window for window in windows]
    log.info(text)
    journal.close("recover", windows=names, rows=rows, torn_bytes=torn)
    upload_session(layout, report, clock)
    return RecoveredSession(session, len(windows), rows, torn, report.balanced, report.upload_error)


def _check_age(layout: Layout, report: SessionReport) -> None:
    """Raise ``StoreError`` if a newer report existed that cannot be written again."""
    logged = read_logged_session(layout.audit, report.session)
    has_no_tapes = any(".tape" in name for name in logged.deleted)  # not only CSV was deleted
    if report.state == "running" and logged.report is not None and has_no_tapes:
        raise StoreError(
            f"{layout.report(report.session)} is older than the end of its session, whose tapes "
            "were deleted since: put the last report back from a copy."
        )


def _set_foreign_tapes_aside(layout: Layout, window: WindowId, journal: SessionJournal) -> None:
    for tape in (layout.tape(window), layout.archived_tape(window)):
        if tape.exists() and is_foreign(tape):
            aside = set_aside(tape)
            text = f"{tape.name} was the tape of another session or window: it is {aside.name} now"
            journal.add_notice("aside", text, file=str(aside))


def _settle_tapes(layout: Layout, window: WindowId, journal: SessionJournal) -> None:
    """Keep one tape of a window that has two, as in a folder that was copied twice."""
    tape, archived = layout.tape(window), layout.archived_tape(window)
    is_double = tape.exists() and archived.exists()
    if is_double and (aside := settle_tapes(tape, archived)) is not None:
        better = tape if tape.exists() else archived
        text = (
            f"window {window.window} had two tapes that differ: {better.name} was kept, "
            f"the other was set aside as {aside.name}"
        )
        journal.add_notice("aside", text, file=str(aside), size=aside.stat().st_size)


def _set_open_segments_aside(layout: Layout, window: WindowId, journal: SessionJournal) -> None:
    """Rename the open segments of a window without a tape: nobody knows whether they are whole."""
    segments = layout.open_segments(window)
    if segments and not layout.tape_of(window).exists():
        text = (
            f"window {window.window} has no tape, as after a power cut: without it, "
            f"{count_of(len(segments), 'open segment')} cannot be published; what was in them is "
            f"kept as csv/<ticker>/{window.stem}.aside"
        )
        journal.add_notice("aside", text, window=window.window)
        for path in segments:
            path.rename(path.with_name(f"{window.stem}.aside"))
            files.sync_file(path.parent)


def _repair_tapes(layout: Layout, session: str, journal: SessionJournal) -> None:
    """Cut torn ends and holes out of the plain tapes; a hole is a gap, and the report says so."""
    tapes = layout.session_tapes(session)
    ends = [*(epoch_ns(window.opened_at) for window in tapes), 0][1:]
    for (window, path), end in zip(tapes.items(), ends, strict=True):
        if path != layout.tape(window):
            continue
        for hole in repair_tape(path, epoch_ns(window.opened_at), end):
            start, stop = utc_datetime(hole.start), utc_datetime(hole.end)
            text = (
                f"window {window.window}: {hole.reason}; what was received from "
                f"{start:%H:%M:%S.%f} to {stop:%H:%M:%S.%f} UTC is lost"
            )
            journal.add_notice("hole", text, start=start, end=stop, zeros=hole.zeros)


def _unfinished_windows(layout: Layout, session: str, unpublished: Iterable[str]) -> list[WindowId]:
    """Return the windows that have a plain tape, or a segment, or that the report lists."""
    windows = {WindowId(session, name) for name in unpublished}
    windows |= {WindowId.of_tape(path) for path in layout.plain_tapes(session)}
    windows.update(map(WindowId.parse, layout.root.glob(f"csv/*/{session}-*.csv*")))
    return sorted(windows, key=attrgetter("number"))


def _can_rebuild(layout: Layout, window: WindowId) -> bool:
    """Return whether a rebuild keeps all trades: not if only segments have what is damaged."""
    if not layout.sealed_segments(window):
        return True
    reader = TapeReader(layout.archived_tape(window))
    for _ in reader:
        pass
    return reader.damage is None


def is_recorded_completely(layout: Layout, window: WindowId) -> bool:
    """Return whether all segments of a window are sealed: its tape is archived, none is open."""
    return not layout.tape(window).exists() and not layout.open_segments(window)


def recount_report(
    layout: Layout, session: str, report: SessionReport, journal: SessionJournal
) -> None:
    """Count missing windows, and the rows in Parquet, from disk."""
    for window in layout.session_tapes(session):
        if window.window not in report.windows:
            with rebuilt_copy(layout, window) as (_, sealed):
                journal.add_counts(sealed)
    retry_on_compaction(partial(_count_published, layout, report))
    report.unpublished = []


def _count_published(layout: Layout, report: SessionReport) -> None:
    """Count a session's published rows and files, and its duplicates, from disk."""
    for books in report.per_ticker.values():
        books.parquet = 0
    report.duplicates.clear()
    published = list_published(layout, report.dates, report.session)
    for rows in published.values():
        for ticker, count in rows.count_trades().items():
            report.ticker_books(ticker).parquet += count
        report.add_duplicates(count_window_duplicates(rows))
    paths = {path for rows in published.values() for path in rows.paths}
    report.files, report.size = len(paths), sum(path.stat().st_size for path in paths)


def _close_report(layout: Layout, session: str, report: SessionReport, torn: int) -> None:
    facts = read_tape_facts(layout, session)
    last = facts.last
    report.state = catalog.recovered_state(session)
    report.ended = utc_datetime(last) if last else report.started
    report.reason = f"its process crashed; its last line is from {report.ended:%F %T} UTC"
    if torn:
        report.reason += f"; {count_of(torn, 'torn byte')} set aside"
    known = {*list_published(layout, report.dates, session)}
    known |= {WindowId(session, name) for name in report.windows}
    paths = [layout.coverage(session, date) for date in report.dates]
    if known <= layout.session_tapes(session).keys() or not any(map(Path.exists, paths)):
        facts.fill(report)
        paths = write_coverage(layout, session, facts.coverage.spans)
    else:
        report.notices.append("tapes are missing: gaps and coverage were left as they were")
    hash_files(layout, report, paths)


def _report_from_tape(layout: Layout, session: str, clock: Clock) -> SessionReport:
    """Make a report for a session without one, or with a damaged one."""
    for entry in read_entries(layout, session):
        if isinstance(entry, OpeningMark):
            return new_report(session, entry.tickers, entry.stamp, {**entry.imported})
    return new_report(session, [], clock.wall(), {})
