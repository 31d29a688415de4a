"""One foreign CSV file becomes a session of its own, marked as imported.

Its rows become a tape in which each is a frame, received when the file says (``ts_recv``, else when
it happened). So it goes through the code that records any tape: the same schema, the same files,
the same quarantine; ``verify`` can check it and ``requeue`` put repaired rows back. No mark on the
tape tells of a connection, so the coverage says for no moment that anybody listened.

The session is named after the file's content: the same file is imported once, whatever it is
called. A file counts as imported from the moment in which the session's folder of tapes gets its
name, all tapes in it: before it, nothing has happened; after it, the session is recovered like any
other. The file itself is only read.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError
from stocktrace.importing.csv_source import CsvSource, EmptySource, TimedFrame
from stocktrace.importing.session_tapes import SessionTapes, publish_tapes
from stocktrace.intervals import CoverageInterval
from stocktrace.record.publish import rebuild_window
from stocktrace.sessions.catalog import read_report
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, new_import
from stocktrace.store.quarantine import parse_quarantine
from stocktrace.text import encodable

# Enough to see that columns or times are not what they are said to be.
_FIRST_ROWS = 1000
# How many reasons a person is told of what is refused.
_REASONS = 5
_REFUSED_LINES = 1000


@dataclass(frozen=True, slots=True)
class ImportOrigin:
    """Where imported trades are from.

    ``digest`` names the session: the same trades have the same; ``facts`` are for its report and
    its tapes, ``reason`` is for a person. ``coverage`` says when who listened, if that is known;
    ``name`` makes the session's name of the first time in it and the digest.
    """

    digest: str
    facts: dict[str, str]
    reason: str
    coverage: tuple[CoverageInterval, ...] = ()
    name: Callable[[int, str], str] = new_import

    @classmethod
    def of(cls, source: CsvSource) -> ImportOrigin:
        """Of a file."""
        facts = {"source": encodable(str(source.path.resolve())), **source.facts}
        reason = f"imported from {encodable(source.path.name)}"
        return cls(source.contents.digest, facts, reason)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What an import would come to; ``reasons`` are why rows would be refused, each once."""

    books: Books
    tickers: int
    reasons: list[str]


def find_import(layout: Layout, source: CsvSource) -> str | None:
    """The session that a file was imported as, if it was.

    Raises:
        StoreError: it was, with another mapping.
    """
    for session in layout.imported_sessions(source.contents.digest):
        report = read_report(layout, session)
        told = source.facts if report is None else report.settings
        other = [name for name, text in source.facts.items() if told.get(name) != text]
        if other:
            raise StoreError(
                f"{source.path} was imported before, as session {session}, in another way "
                f"({', '.join(f'{name} {told.get(name)!r}' for name in other)}): "
                "see docs/operations.md for how to take that back."
            )
        return session
    return None


def dry_run(layout: Layout, source: CsvSource, *, whole: bool = True) -> DryRun:
    """What importing a file would come to: it is recorded, counted and thrown away.

    Without ``whole`` only its beginning is looked at.

    Raises:
        StoreError: it cannot be read.
    """
    session = new_import(0, source.contents.digest)
    trial = DryRun(Books(), 0, [])
    tickers: set[str] = set()
    with _scratch(layout) as folder:
        scratch = Layout(folder)
        blocks = source.blocks() if whole else _first_rows(source)
        tapes = SessionTapes(scratch.tapes(session), source.facts)
        tapes.write(blocks)
        for window in tapes.windows:
            part = WindowId(session, window)
            sealed = rebuild_window(scratch, part)
            trial.books.add(sealed.books)
            tickers |= {ticker for ticker, one in sealed.tickers.items() if one.recorded}
            told = dict.fromkeys([*trial.reasons, *_reasons(scratch.quarantine(part))])
            trial.reasons[:] = list(told)[:_REASONS]
    return DryRun(trial.books, len(tickers), trial.reasons)


@contextlib.contextmanager
def _scratch(layout: Layout) -> Iterator[Path]:
    """A folder that is thrown away; a data folder that is not there is not made for it."""
    if layout.root.is_dir():
        with files.temporary_folder(layout.scratch) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _first_rows(source: CsvSource) -> Iterator[list[TimedFrame]]:
    for rows in itertools.islice(source.blocks(), 1):
        yield rows[:_FIRST_ROWS]


def _reasons(quarantine: Path) -> Iterator[str]:
    if quarantine.exists():
        with quarantine.open(encoding="utf-8") as file:
            for refused in parse_quarantine(itertools.islice(file, _REFUSED_LINES)):
                yield refused.reason


def import_file(
    layout: Layout, source: CsvSource, clock: Clock = SYSTEM_CLOCK
) -> SessionReport | None:
    """Import a file; ``None`` if another process is at it, or has done it meanwhile.

    Raises:
        NothingThere: it has no rows.
        StoreError: it cannot be read, or not one of its first rows passes the schema; nothing was
            imported.
    """
    trial = dry_run(layout, source, whole=False)
    if not trial.books.frames:
        raise EmptySource(f"{source.path} has no rows.")
    if not trial.books.recorded:
        raise StoreError(
            f"Not one of the first {trial.books.trades:,} rows of {source.path} passes, the first "
            f"because: {trial.reasons[0]}. Nothing was imported: see whether its columns, the unit "
            "of its times and their zone are as you say."
        )
    return import_frames(layout, ImportOrigin.of(source), source.blocks(), clock)


def import_frames(
    layout: Layout,
    origin: ImportOrigin,
    blocks: Iterable[Iterable[TimedFrame]],
    clock: Clock = SYSTEM_CLOCK,
) -> SessionReport | None:
    """Import frames; ``None`` if another process is importing them, or has done so in the meantime.

    The session is named after the first receive time and the origin's digest.
    """
    digest = origin.digest
    with contextlib.ExitStack() as claimed:
        with files.temporary_folder(layout.tapes(digest)) as staged:
            tapes = SessionTapes(staged, origin.facts)
            tapes.write(blocks, origin.coverage)
            session = origin.name(tapes.first or 0, digest)
            try:
                claimed.enter_context(lock.hold_lock(layout.lock(session), {"session": session}))
            except BlockingIOError:
                return None
            if layout.imported_sessions(digest):
                return None
            files.publish_file(staged, layout.tapes(session))
        return publish_tapes(
            layout,
            session,
            tapes,
            origin.reason,
            origin.coverage,
            clock,
            source=origin.facts["source"],
            content=digest,
        )
