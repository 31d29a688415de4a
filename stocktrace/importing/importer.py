"""Import of a third-party CSV file as a session of its own.

Each row becomes a frame, received at its ``ts_recv`` or, without that column, when it happened
(``session_tapes``). The session is named after the file's content: a file is imported once,
whatever its name. The file itself is only read.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError
from stocktrace.importing.csv_source import CsvSource, EmptySource, TimedFrame
from stocktrace.importing.session_tapes import ImportOrigin, SessionTapes, publish_tapes
from stocktrace.record.publish import rebuild_window
from stocktrace.sessions.catalog import read_report
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, new_import
from stocktrace.store.quarantine import parse_quarantine
from stocktrace.text import encodable

# Enough rows to detect wrong columns or times.
_FIRST_ROWS = 1000
# How many reasons of refusals are reported.
_REASONS = 5
_REFUSED_LINES = 1000


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
        StoreError: it cannot be read.
    """
    session = new_import(0, source.digest)
    books = Books()
    tickers: set[str] = set()
    reasons: dict[str, None] = {}
    with _scratch(layout) as folder:
        scratch = Layout(folder)
        blocks = source.blocks() if whole else _first_rows(source)
        tapes = SessionTapes(scratch.tapes(session), ImportOrigin("", source.facts, ""))
        tapes.write(blocks)
        for window in tapes.windows:
            part = WindowId(session, window)
            sealed = rebuild_window(scratch, part)
            books.add(sealed.books)
            tickers |= {name for name, counts in sealed.tickers.items() if counts.recorded}
            reasons |= dict.fromkeys(_refusal_reasons(scratch.quarantine(part)))
    return ImportPreview(books, len(tickers), list(reasons)[:_REASONS])


@contextlib.contextmanager
def _scratch(layout: Layout) -> Iterator[Path]:
    """A temporary folder; a data folder that does not exist is not created for it."""
    if layout.root.is_dir():
        with files.temporary_folder(layout.scratch) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _first_rows(source: CsvSource) -> Iterator[list[TimedFrame]]:
    for rows in itertools.islice(source.blocks(), 1):
        yield rows[:_FIRST_ROWS]


def _refusal_reasons(quarantine: Path) -> Iterator[str]:
    if quarantine.exists():
        with quarantine.open(encoding="utf-8") as file:
            for refused in parse_quarantine(itertools.islice(file, _REFUSED_LINES)):
                yield refused.reason


def import_file(
    layout: Layout, source: CsvSource, clock: Clock = SYSTEM_CLOCK
) -> SessionReport | None:
    """Import a file; ``None`` if another process is importing it, or has just imported it.

    Raises:
        EmptySource: it has no rows.
        StoreError: it cannot be read, or not one of its first rows passes the schema; nothing was
            imported.
    """
    preview = preview_import(layout, source, whole=False)
    if not preview.books.frames:
        raise EmptySource(f"{source.path} has no rows.")
    if not preview.books.recorded:
        raise StoreError(
            f"Not one of the first {preview.books.trades:,} rows of {source.path} is valid, the "
            f"first because: {preview.reasons[0]}. Nothing was imported: check the mapping of its "
            "columns, the unit of its times and their time zone."
        )
    facts = {"source": encodable(str(source.path.resolve())), **source.facts}
    reason = f"imported from {encodable(source.path.name)}"
    origin = ImportOrigin(source.digest, facts, reason)
    return import_frames(layout, origin, source.blocks(), clock)


def import_frames(
    layout: Layout,
    origin: ImportOrigin,
    blocks: Iterable[Iterable[TimedFrame]],
    clock: Clock = SYSTEM_CLOCK,
) -> SessionReport | None:
    """Import frames; ``None`` if another process is importing them, or has just imported them.

    The session is named after the first receive time and the origin's digest.
    """
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
