"""From a rolled window to published Parquet: rebuild what is missing, archive the tape, convert.

Each step may be killed anywhere and run again. The suffixes on disk say how far it came: a
``.tape`` is a window that may not be recorded whole, a ``.tape.zst`` one that is; a ``.csv`` is
whole and not yet published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stocktrace.record.recorder import SealedWindow, finish_counts
from stocktrace.record.upload import send_pending
from stocktrace.record.window_counts import WindowCounts
from stocktrace.store import conversion, files, lock
from stocktrace.store.batch import Chunk
from stocktrace.store.conversion import PublishedFile
from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.partition import find_in_day_file
from stocktrace.store.segments import SegmentWriter
from stocktrace.store.tape import TapeFrames, TapeReader, archive_tape

# Of frames that are decoded together: more leave the processor's cache (docs/performance.md).
_BYTES = 1 << 18
_BATCH_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class PublishedWindow:
    """A window whose trades are all in Parquet; ``rebuilt`` are its books if it was rebuilt.

    ``unsent`` says why they are not in the lake, too, if one is set.
    """

    part: WindowId
    files: tuple[PublishedFile, ...]
    rebuilt_window: SealedWindow | None = None
    upload_error: str = ""


def publish_window(
    layout: Layout, part: WindowId, *, whole: bool = True, sending: bool = True
) -> PublishedWindow:
    """Publish a window; first rebuild it from its tape if it is not ``whole``.

    One window of a session is published at a time: whoever comes second waits, and finds it done.
    Without ``sending``, what is to go to the lake is left to who sends it later, at once.
    """
    rebuilt = None if whole else rebuild_window(layout, part)
    with lock.publish_lock(layout, part.session):
        tape = layout.tape(part)
        if tape.exists():
            archive_tape(tape, layout.archived_tape(part))
        converted = [
            conversion.publish_segment(layout, path) for path in layout.sealed_segments(part)
        ]
    unsent = send_pending(layout, part.session)[1] if layout.lake and sending else ""
    return PublishedWindow(
        part, tuple(one for one in converted if one is not None), rebuilt, unsent
    )


def rebuild_window(layout: Layout, part: WindowId, tape: Path | None = None) -> SealedWindow:
    """Record a window again from its tape, the way it was recorded live.

    Segments that are sealed or published already stay as they are; open ones are thrown away and
    written anew; all are counted. Two rebuilds never write to the same segments (``publish``).
    """
    with lock.publish_lock(layout, part.session):
        return _rebuild(layout, part, tape or layout.tape_of(part))


def _rebuild(layout: Layout, part: WindowId, tape: Path) -> SealedWindow:
    writer = SegmentWriter(layout, part, is_published=partial(_is_published, layout, part))
    receipts = WindowCounts()
    batch: dict[str, list[Chunk]] = {}
    rows = 0
    for read in replay_tape(tape, receipts):
        rows += len(read)
        for ticker, some in read.ticker_rows:
            batch.setdefault(ticker, []).append((read, some))
        if rows >= _BATCH_ROWS:
            writer.write(list(batch.items()))
            batch, rows = {}, 0
    if batch:
        writer.write(list(batch.items()))
    writer.quarantine(receipts.refused_rows)
    writer.seal()
    for path in layout.open_segments(part):
        path.unlink()  # of a ticker that is sealed, or of which the tape has no trade
    return finish_counts(receipts, writer)


@contextlib.contextmanager
def rebuilt_copy(layout: Layout, part: WindowId) -> Iterator[tuple[Layout, SealedWindow]]:
    """A window recorded again from its tape into a folder of its own, which goes afterwards."""
    with files.temporary_folder(layout.scratch) as folder:
        scratch = Layout(folder)
        with lock.read_lock(layout, part.session):
            sealed = rebuild_window(scratch, part, layout.tape_of(part))
        yield scratch, sealed


def replay_tape(tape: Path, receipts: WindowCounts) -> Iterator[DecodedRead]:
    """The reads of a tape, decoded and counted in ``receipts``."""
    numbering = TickerCodes()
    entries: list[TapeFrames] = []
    size = 0
    for entry in TapeReader(tape):
        if isinstance(entry, TapeFrames):
            entries.append(entry)
            size += sum(map(len, entry.frames)) + len(entry.frames)
            if size >= _BYTES:
                yield from (read for read, _ in receipts.decode(entries, numbering))
                entries, size = [], 0
    if entries:
        yield from (read for read, _ in receipts.decode(entries, numbering))


def _is_published(layout: Layout, part: WindowId, ticker: str) -> bool:
    """Return whether the trades of a ticker's window are sealed or published."""
    return (
        layout.csv(ticker, part).exists()
        or layout.parquet(ticker, part).exists()
        or find_in_day_file(layout, ticker, part) is not None
    )
