"""From a window that has ended to the lake: rebuild, convert to Parquet, archive the tape, send.

Each step may be killed anywhere and run again. The suffixes on disk say how far it came: the
segments of a ``.tape`` may be incomplete, and ``recover`` writes them again. A ``.tape.zst`` is
published; a ``.csv`` that it has was not deleted yet.

A lake that fails costs time, never data, and does not stop a capture: the files wait in the outbox,
and are sent with the next window, at the end of the capture, or by ``stocktrace recover``. Until
then, ``SessionReport.upload_error`` says why.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import LakeError
from stocktrace.marks import ConnectedMark, SubscriptionMark
from stocktrace.query.duplicates import count_window_duplicates
from stocktrace.record.intake import WindowCounts
from stocktrace.record.recorder import SealedWindow, finish_counts
from stocktrace.sessions.report import SessionReport
from stocktrace.store import conversion, files, lock, outbox
from stocktrace.store.audit import AuditLog
from stocktrace.store.batch import Chunk
from stocktrace.store.conversion import PublishedFile
from stocktrace.store.dataset import find_published, retry_on_compaction
from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.files import OnProgress
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.outbox import SentFiles
from stocktrace.store.segments import SegmentWriter
from stocktrace.store.tape import TapeFrames, TapeReader, archive_tape

log = logging.getLogger(__name__)

# Frames that are decoded together; more exceed the processor's cache (docs/performance.md).
_BATCH_BYTES = 1 << 18
_BATCH_ROWS = 20_000
# With many tickers, the files of a batch cost more than its rows.
_BATCH_TICKERS = 500


@dataclass(frozen=True, slots=True)
class PublishedWindow:
    """A window whose trades are all in Parquet: in ``file``, unless it has no trades.

    ``duplicates`` counts by ticker the trades that the feed had sent before. ``rebuilt_window`` has
    the books of a window that was rebuilt. ``upload_error`` says why the file is not in the lake,
    if one is set.
    """

    window: WindowId
    file: PublishedFile | None
    duplicates: dict[str, int]
    rebuilt_window: SealedWindow | None = None
    upload_error: str = ""


def publish_window(
    layout: Layout,
    window: WindowId,
    *,
    whole: bool = True,
    sending: bool = True,
    on_progress: OnProgress = lambda *_: None,
) -> PublishedWindow:
    """Publish a window; first rebuild it from its tape if its segments are not ``whole``.

    One window of a session is published at a time; a second caller waits and finds nothing to do.
    Without ``sending``, the files stay in the outbox, and the caller sends them later.
    """
    rebuilt = None if whole else rebuild_window(layout, window)
    with lock.publish_lock(layout, window.session):
        file = conversion.convert_window(layout, window, on_progress=on_progress)
        tape = layout.tape(window)
        if tape.exists():
            published = find_published(layout, window) if layout.lake and file is None else None
            if published is not None:  # a power cut took the segments, and perhaps the outbox
                outbox.add_to_outbox(layout, window.session, published.paths[0])
            archive_tape(tape, layout.archived_tape(window))
    duplicates = retry_on_compaction(partial(_count_duplicates, layout, window))
    upload_error = send_pending(layout, window.session)[1] if layout.lake and sending else ""
    return PublishedWindow(window, file, duplicates, rebuilt, upload_error)


def _count_duplicates(layout: Layout, window: WindowId) -> dict[str, int]:
    published = find_published(layout, window)
    return {} if published is None else count_window_duplicates(published)


def rebuild_window(layout: Layout, window: WindowId, tape: Path | None = None) -> SealedWindow:
    """Record a window again from its tape, in the same way as live, and count all trades.

    All segments are written again: after a power cut, they may lack anything. If the window is
    published, only those that are left are, so that a conversion can compare them. A lock keeps two
    rebuilds from writing the same segments.
    """
    with lock.publish_lock(layout, window.session):
        is_published = find_published(layout, window) is not None
        writer = SegmentWriter(
            layout, window, lambda name: is_published and not layout.csv(name, window).exists()
        )
        counts = WindowCounts()
        batch: dict[str, list[Chunk]] = {}
        rows = 0
        with contextlib.closing(writer):
            for read in replay_tape(tape or layout.tape_of(window), counts):
                rows += len(read)
                for ticker, ticker_rows in read.ticker_rows:
                    batch.setdefault(ticker, []).append((read, ticker_rows))
                writer.quarantine(counts.refused_rows)
                counts.refused_rows.clear()
                if rows >= _BATCH_ROWS * max(1, len(batch) // _BATCH_TICKERS):
                    writer.write(list(batch.items()))
                    batch, rows = {}, 0
            if batch:
                writer.write(list(batch.items()))
            writer.seal()
        left = layout.open_segments(window)
        if not is_published:
            left += layout.sealed_segments(window)
        for path in left:
            if layout.ticker_of_csv(path) not in writer.tickers:
                path.unlink()  # its ticker is published, or has no trades on the tape
        return finish_counts(counts, writer)


@contextlib.contextmanager
def rebuilt_copy(layout: Layout, window: WindowId) -> Iterator[tuple[Layout, SealedWindow]]:
    """Record a window again from its tape into a temporary folder."""
    with files.temporary_folder(layout.scratch) as folder:
        scratch = Layout(folder)
        with lock.read_lock(layout, window.session):
            sealed = rebuild_window(scratch, window, layout.tape_of(window))
        yield scratch, sealed


def replay_tape(tape: Path, counts: WindowCounts) -> Iterator[DecodedRead]:
    """Decode the reads of a tape, and add them to ``counts``."""
    numbering = TickerCodes()
    entries: list[TapeFrames] = []
    size = 0
    for entry in TapeReader(tape):
        if not isinstance(entry, TapeFrames):
            if entries and isinstance(entry, (ConnectedMark, SubscriptionMark)):
                yield from counts.decode(entries, numbering)
                entries, size = [], 0
            counts.ask_for(entry)
        else:
            entries.append(entry)
            size += sum(map(len, entry.frames)) + len(entry.frames)
            if size >= _BATCH_BYTES:
                yield from counts.decode(entries, numbering)
                entries, size = [], 0
    if entries:
        yield from counts.decode(entries, numbering)


def with_lake_of_report(layout: Layout, report: SessionReport) -> Layout:
    """Return ``layout`` with its lake, or with the lake that the session was recorded for."""
    return replace(layout, lake=layout.lake or str(report.settings.get("lake", "")))


def send_pending(layout: Layout, session: str) -> tuple[SentFiles, str]:
    """Send the outbox and the current report; return what was sent, and the error or ``""``."""
    try:
        outbox.add_to_outbox(layout, session, layout.report(session))
        return outbox.send_outbox(layout, session), ""
    except LakeError as error:
        return SentFiles(), f"{error} The files wait in the outbox: run `stocktrace recover`."


def upload_session(layout: Layout, report: SessionReport, clock: Clock = SYSTEM_CLOCK) -> None:
    """Send the rest of a session that has ended, its report last, and record the outcome."""
    if not layout.lake and not layout.outbox(report.session).exists():
        return
    path = layout.report(report.session)
    report.upload_error = ""
    report.write(path)
    sent, report.upload_error = send_pending(layout, report.session)
    audit = AuditLog(layout.audit, report.session, clock)
    if report.upload_error:
        report.write(path)
        audit("unsent", reason=report.upload_error)
        log.error(report.upload_error)
    else:
        audit("send", files=sent.files, size=sent.size)
