"""Recovery: what a session that died left behind is published, exactly once.

1. A session is dead when its report says it runs and nobody holds its lock. Take the lock; a live
   session, or one that another recovery is at, is left alone.
2. Where a window has a plain tape and an archive, keep the better one; a tape that differs from it
   is set aside, and the report says so. Cut each tape that was not archived behind its last
   complete line; what was torn off goes into ``<window>.torn`` beside it and is counted. What was
   being written under a temporary name goes.
3. Rebuild each such window from its tape, through the code that recorded it: open segments are
   thrown away, sealed and published ones stay, what is missing is written and sealed.
4. Rebuild likewise each window that has an open segment though its tape is archived.
5. Archive the tapes, convert every sealed segment.
6. Count again: windows that the report does not know, rows in Parquet, coverage from the marks.
7. Write the report as ``recovered``.
8. Send what waits in the outbox to the lake that the session was recorded for, or that is set.

Killed anywhere, it does the rest the next time: each step finds on disk what is left to do.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StocktraceError, StoreError
from stocktrace.query.duplicates import count_session_duplicates
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.journal import SessionJournal, new_report, report_gaps
from stocktrace.record.publish import publish_window, rebuilt_copy
from stocktrace.record.upload import upload_session, with_lake_of_report
from stocktrace.record.vouching import vouch, vouch_for_quarantine
from stocktrace.sessions import catalog
from stocktrace.sessions.report import SessionReport
from stocktrace.store import files, lock
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.partition import session_rows
from stocktrace.store.tape import TapeFrames, TapeMark, TapeReader, settle_tapes
from stocktrace.text import count_of
from stocktrace.units import utc_datetime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveredSession:
    """A session that was dead; ``rows`` came to Parquet now, ``torn_bytes`` were set aside.

    ``unsent`` says why it is not in the lake, if it should be.
    """

    session: str
    windows: int
    rows: int
    torn_bytes: int
    balanced: bool
    upload_error: str = ""


def recover(layout: Layout, clock: Clock = SYSTEM_CLOCK) -> list[RecoveredSession]:
    """Recover every dead session of a data folder.

    Raises:
        StocktraceError: some could not be; the others are recovered all the same.
    """
    done: list[RecoveredSession] = []
    failures: list[Exception] = []
    sweep_temporaries(layout)
    for session in catalog.sessions_to_recover(layout):
        try:
            recovered = recover_session(layout, session, clock)
        except (StocktraceError, OSError) as error:
            failures.append(error)
            log.error("session %s cannot be recovered: %s", session, error)  # noqa: TRY400
        else:
            done += [recovered] if recovered is not None else []
    if failures:
        if len(failures) == 1 and isinstance(failures[0], StocktraceError):
            raise failures[0]
        raise StoreError(
            f"{len(failures)} sessions cannot be recovered, the first because: {failures[0]}"
        ) from failures[0]
    return done


def sweep_temporaries(layout: Layout) -> None:
    """Remove the temporary files and folders that nobody is writing any more."""
    for path in layout.orphaned_temporaries():
        files.remove_abandoned(path)


def recover_session(
    layout: Layout, session: str, clock: Clock = SYSTEM_CLOCK
) -> RecoveredSession | None:
    """Recover one dead session; ``None`` if another process is at it, or has done it.

    Raises:
        StocktraceError: it cannot be; what it left stays.
    """
    with claim_session(layout, session) as ours:
        return (
            _recover_claimed(layout, session, clock)
            if ours and not catalog.is_finished(layout, session)
            else None
        )


@contextlib.contextmanager
def claim_session(layout: Layout, session: str) -> Iterator[bool]:
    """Hold a session's lock meanwhile; whether that could be had."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.hold_lock(layout.lock(session), {"session": session}))
        except BlockingIOError:
            yield False
        else:
            yield True


def _recover_claimed(layout: Layout, session: str, clock: Clock) -> RecoveredSession:
    report = catalog.read_report(layout, session) or _report_from_tape(layout, session, clock)
    layout = with_lake_of_report(layout, report)
    journal = SessionJournal(layout, report, AuditLog(layout.audit, session, clock))
    died = report.state == "running"
    with lock.publish_lock(layout, session):  # what the capture began may still go on
        for temporary in layout.temporaries(session):
            files.remove_abandoned(temporary)
        parts = sorted(unfinished_windows(layout, session), key=lambda part: part.window)
        # Until the last step, the report says what is under way, whatever the state it tells.
        report.unpublished = sorted({*report.unpublished, *(part.window for part in parts)})
        journal.save()
        renewed = set(report.unpublished)
        for part in parts:
            _settle(layout, part, journal)
        for path in layout.plain_tapes(session):
            truncate_torn_tape(path)
    torn = sum(path.stat().st_size for path in layout.tapes(session).glob("[0-9]*.torn"))
    rows = 0
    for part in parts:
        whole = not layout.tape(part).exists() and not layout.open_segments(part)
        published = publish_window(layout, part, whole=whole, sending=False)
        if published.rebuilt_window is not None and part.window not in report.windows:
            journal.add_counts(published.rebuilt_window)
        rows += sum(file.rows for file in published.files)
    recount_report(layout, session, report, journal)
    report.duplicates = count_session_duplicates(layout, session, report.dates)
    if died:
        _close_report(layout, session, report, torn)
    else:
        vouch_for_quarantine(layout, report, renewed)
    journal.record(
        "recover",
        f"session {session} recovered: {count_of(len(parts), 'window')}, "
        f"{count_of(rows, 'trade')} published"
        + (f", {count_of(torn, 'torn byte')} set aside" if torn else ""),
        windows=[part.window for part in parts],
        rows=rows,
        torn_bytes=torn,
    )
    journal.save()
    upload_session(layout, report, clock)
    return RecoveredSession(session, len(parts), rows, torn, report.balanced, report.upload_error)


def _settle(layout: Layout, part: WindowId, journal: SessionJournal) -> None:
    """Leave one tape of a window that has two, as a folder that was copied twice can have."""
    tape, archived = layout.tape(part), layout.archived_tape(part)
    if not (tape.exists() and archived.exists()):
        return
    if (aside := settle_tapes(tape, archived)) is not None:
        kept = tape if tape.exists() else archived
        text = (
            f"window {part.window} had two tapes that differ: {kept.name} was kept, "
            f"the other one was set aside as {aside.name}"
        )
        journal.report.notices.append(text)
        journal.record("aside", text, logging.WARNING, file=str(aside), size=aside.stat().st_size)


def truncate_torn_tape(tape: Path) -> None:
    """Cut a tape behind its last complete line, keep the rest beside it."""
    with tape.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = _last_line_end(file.fileno(), size)
        if end < size:
            torn = os.pread(file.fileno(), size - end, end)
            aside = tape.with_suffix(".torn")
            aside.write_bytes(torn)
            files.sync_file(aside)  # kept before it is cut off
            file.truncate(end)
            os.fsync(file.fileno())


def _last_line_end(descriptor: int, size: int) -> int:
    block = 1 << 16
    end = size
    while end > 0:
        begin = max(0, end - block)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def unfinished_windows(layout: Layout, session: str) -> Iterator[WindowId]:
    """Windows of a session with a tape to archive, a segment to rebuild or one to convert."""
    found = {WindowId.of_tape(path) for path in layout.plain_tapes(session)}
    for path in layout.root.glob(f"csv/*/{session}-*.csv*"):
        found.add(WindowId.parse(path))
    yield from found


def recount_report(
    layout: Layout, session: str, report: SessionReport, journal: SessionJournal
) -> None:
    """Bring the report up to what is on disk: windows it missed, rows in Parquet."""
    for part in layout.session_tapes(session):
        if part.window not in report.windows:
            with rebuilt_copy(layout, part) as (_, sealed):
                journal.add_counts(sealed)
    for one in report.per_ticker.values():
        one.parquet = one.files = one.size = 0
    counted: set[Path] = set()
    for ticker, piece in session_rows(layout, session, report.dates):
        one = report.ticker(ticker)
        one.parquet += piece.rows
        one.files += piece.path not in counted
        one.size += piece.size
        counted.add(piece.path)
    report.unpublished = []


def _close_report(layout: Layout, session: str, report: SessionReport, torn: int) -> None:
    coverage, last = coverage_from_tapes(layout, session)
    report.state = catalog.recovered_state(session)
    report.ended = utc_datetime(last) if last else report.started
    report.reason = f"its process died; its last line is of {report.ended:%Y-%m-%d %H:%M:%S} UTC"
    if torn:
        report.reason += f"; {count_of(torn, 'torn byte')} set aside"
    report.gaps = report_gaps(coverage)
    report.reconnects = coverage.disconnects
    vouch(layout, report, write_coverage(layout, session, coverage.intervals))


def coverage_from_tapes(layout: Layout, session: str) -> tuple[CoverageBuilder, int]:
    """The coverage that a session's tapes tell, and their last sign of life (epoch ns).

    It ends with that. The first line of a further tape is no sign of life: it is written for what
    was read next, and that may never have been written.
    """
    coverage, last = CoverageBuilder(), 0
    for path in layout.session_tapes(session).values():
        for entry in TapeReader(path):
            if isinstance(entry, TapeFrames):
                coverage.data_received(entry.stamp)
            else:
                coverage.add(entry)
                if entry.name == "tape" and last:
                    continue
            last = entry.stamp
    coverage.close(last)
    return coverage, last


def _report_from_tape(layout: Layout, session: str, clock: Clock) -> SessionReport:
    """A report for a session that died before it wrote one, or whose report is damaged."""
    for path in layout.session_tapes(session).values():
        for entry in TapeReader(path):
            if isinstance(entry, TapeMark) and entry.name == "tape":
                tickers = [str(ticker) for ticker in entry.facts.get("tickers", ())]
                imported = dict(entry.facts.get("imported", {}))
                return new_report(session, tickers, entry.stamp, imported)
    return new_report(session, [], clock.wall(), {})
