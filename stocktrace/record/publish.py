"""From a rolled window to published Parquet: rebuild what is missing, archive the tape, convert.

Each step may be killed anywhere and run again. The suffixes on disk say how far it came: a
``.tape`` is a window that may not be recorded whole, a ``.tape.zst`` one that is; a ``.csv`` is
whole and not yet published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.record.delivery import send
from stocktrace.record.receipts import Receipts
from stocktrace.record.recorder import Sealed, close_books
from stocktrace.store import exclusion, files, parquet
from stocktrace.store.batch import Chunk
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.store.parquet import Converted
from stocktrace.store.partition import in_day
from stocktrace.store.read import Numbering, Read
from stocktrace.store.segment import SegmentWriter
from stocktrace.store.tape import Frames, TapeReader, archive

# Of frames that are decoded together: more leave the processor's cache (docs/performance.md).
_BYTES = 1 << 18
_BATCH_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Published:
    """A window whose trades are all in Parquet; ``rebuilt`` are its books if it was rebuilt.

    ``unsent`` says why they are not in the lake, too, if one is set.
    """

    part: Part
    files: tuple[Converted, ...]
    rebuilt: Sealed | None = None
    unsent: str = ""


def publish(layout: Layout, part: Part, *, whole: bool = True, sending: bool = True) -> Published:
    """Publish a window; first rebuild it from its tape if it is not ``whole``.

    One window of a session is published at a time: whoever comes second waits, and finds it done.
    Without ``sending``, what is to go to the lake is left to who sends it later, at once.
    """
    rebuilt = None if whole else rebuild(layout, part)
    with exclusion.publishing(layout, part.session):
        tape = layout.tape(part)
        if tape.exists():
            archive(tape, layout.archived_tape(part))
        converted = [parquet.convert(layout, path) for path in layout.sealed_segments(part)]
    unsent = send(layout, part.session)[1] if layout.lake and sending else ""
    return Published(part, tuple(one for one in converted if one is not None), rebuilt, unsent)


def rebuild(layout: Layout, part: Part, tape: Path | None = None) -> Sealed:
    """Record a window again from its tape, the way it was recorded live.

    Segments that are sealed or published already stay as they are; open ones are thrown away and
    written anew; all are counted. Two rebuilds never write to the same segments (``publish``).
    """
    with exclusion.publishing(layout, part.session):
        return _rebuild(layout, part, tape or layout.tape_of(part))


def _rebuild(layout: Layout, part: Part, tape: Path) -> Sealed:
    writer = SegmentWriter(layout, part, done=_Done(layout, part))
    receipts = Receipts()
    batch: dict[str, list[Chunk]] = {}
    rows = 0
    for read in replay(tape, receipts):
        rows += len(read)
        for ticker, some in read.parts:
            batch.setdefault(ticker, []).append((read, some))
        if rows >= _BATCH_ROWS:
            writer.write(list(batch.items()))
            batch, rows = {}, 0
    if batch:
        writer.write(list(batch.items()))
    writer.refuse(receipts.refused)
    writer.seal()
    for path in layout.open_segments(part):
        path.unlink()  # of a ticker that is sealed, or of which the tape has no trade
    return close_books(receipts, writer)


@contextlib.contextmanager
def again(layout: Layout, part: Part) -> Iterator[tuple[Layout, Sealed]]:
    """A window recorded again from its tape into a folder of its own, which goes afterwards."""
    with files.temporary_folder(layout.scratch) as folder:
        scratch = Layout(folder)
        with exclusion.reading(layout, part.session):
            sealed = rebuild(scratch, part, layout.tape_of(part))
        yield scratch, sealed


def replay(tape: Path, receipts: Receipts) -> Iterator[Read]:
    """The reads of a tape, decoded and counted in ``receipts``."""
    numbering = Numbering()
    entries: list[Frames] = []
    size = 0
    for entry in TapeReader(tape):
        if isinstance(entry, Frames):
            entries.append(entry)
            size += sum(map(len, entry.frames)) + len(entry.frames)
            if size >= _BYTES:
                yield from (read for read, _ in receipts.decode(entries, numbering))
                entries, size = [], 0
    if entries:
        yield from (read for read, _ in receipts.decode(entries, numbering))


class _Done:
    """The tickers of a window that are sealed or published: asked of the disk, by ``in``."""

    def __init__(self, layout: Layout, part: Part) -> None:
        self._layout = layout
        self._part = part

    def __contains__(self, ticker: object) -> bool:
        name = str(ticker)
        sealed = self._layout.csv(name, self._part)
        return (
            sealed.exists()
            or self._layout.parquet(name, self._part).exists()
            or in_day(self._layout, name, self._part) is not None
        )
