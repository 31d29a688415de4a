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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stocktrace.deadline import SYSTEM_CLOCK, Clock, utc
from stocktrace.errors import StoreError
from stocktrace.gap import Interval
from stocktrace.ingest.foreign import NothingThere, Row, Source
from stocktrace.record.coverage import Coverage
from stocktrace.record.delivery import deliver
from stocktrace.record.journal import Journal, gap_reports, new_report
from stocktrace.record.publish import publish, rebuild
from stocktrace.record.recovery import read_report, state_of
from stocktrace.record.vouching import vouch
from stocktrace.report import Books, Report
from stocktrace.settings import Settings
from stocktrace.store import files, lock
from stocktrace.store.audit import Audit
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part, new_import
from stocktrace.store.originals import copies_of_session
from stocktrace.store.quarantine import parse
from stocktrace.store.tape import Mark, TapeWriter
from stocktrace.store.window import NS_PER_DAY, RollPolicy, Window
from stocktrace.words import encodable

# Days of which tapes are open at once; a file that jumps between more costs more windows.
_OPEN_DAYS = 64
# Enough to see that columns or times are not what they are said to be.
_FIRST_ROWS = 1000
# How many reasons a person is told of what is refused.
_REASONS = 5
_REFUSED_LINES = 1000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where imported trades are from.

    ``digest`` names the session: the same trades have the same; ``facts`` are for its report and
    its tapes, ``reason`` is for a person. ``coverage`` says when who listened, if that is known;
    ``name`` makes the session's name of the first time in it and the digest.
    """

    digest: str
    facts: dict[str, str]
    reason: str
    coverage: tuple[Interval, ...] = ()
    name: Callable[[int, str], str] = new_import

    @classmethod
    def of(cls, source: Source) -> Origin:
        """Of a file."""
        facts = {"source": encodable(str(source.path.resolve())), **source.facts}
        reason = f"imported from {encodable(source.path.name)}"
        return cls(source.contents.digest, facts, reason)


@dataclass(frozen=True, slots=True)
class Trial:
    """What an import would come to; ``reasons`` are why rows would be refused, each once."""

    books: Books
    tickers: int
    reasons: list[str]


@dataclass(slots=True)
class _Tapes:
    """The tapes of an import: one for each UTC day of receipt, more if one grows too large."""

    folder: Path
    policy: RollPolicy
    facts: dict[str, str]
    windows: list[str] = field(default_factory=list)
    first: int | None = None
    _open: dict[int, tuple[Window, TapeWriter]] = field(default_factory=dict)
    _last: int = 0

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; one without a time stands where the one before it does."""
        for stamp, some in itertools.groupby(rows, key=lambda row: row[0]):
            if stamp is not None and stamp >= 0:
                self._last = stamp
                self.first = stamp if self.first is None else min(self.first, stamp)
            self._tape(self._last).append(self._last, [frame for _, frame in some])

    def tell(self, coverage: Sequence[Interval]) -> None:
        """Append who listened, and that it is over."""
        if coverage:
            end = max(self._last, *(each.end for each in coverage))
            tape = self._tape(self._last)
            for each in coverage:
                tape.mark(Mark(end, "covered", asdict(each)))
            tape.mark(Mark(end, "ended"))

    def _tape(self, stamp: int) -> TapeWriter:
        day = stamp // NS_PER_DAY
        if day in self._open:
            window, tape = self._open[day]
            if not self.policy.due(window, stamp, tape.size):
                return tape
            self._open.pop(day)[1].close()
        elif len(self._open) >= _OPEN_DAYS:
            self._open.pop(next(iter(self._open)))[1].close()
        window = self.policy.open("", len(self.windows) + 1, stamp)
        tape = TapeWriter(self.folder / f"{window.name}.tape")
        self._open[day] = window, tape
        self.windows.append(window.name)
        told = {"connected": False, "tickers": [], "imported": self.facts}
        tape.mark(Mark(stamp, "tape", told))
        return tape

    def close(self) -> None:
        """Close them; all is on the disk."""
        while self._open:
            self._open.popitem()[1][1].close()


def known(layout: Layout, source: Source) -> str | None:
    """The session that a file was imported as, if it was.

    Raises:
        StoreError: it was, with another mapping.
    """
    for session in layout.imports(source.contents.digest):
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


def try_out(layout: Layout, source: Source, *, whole: bool = True) -> Trial:
    """What importing a file would come to: it is recorded, counted and thrown away.

    Without ``whole`` only its beginning is looked at.

    Raises:
        StoreError: it cannot be read.
    """
    session = new_import(0, source.contents.digest)
    trial = Trial(Books(), 0, [])
    tickers: set[str] = set()
    with _scratch(layout) as folder:
        scratch = Layout(folder)
        blocks = source.blocks() if whole else _beginning(source)
        for window in _write(scratch.tapes(session), Origin.of(source), blocks).windows:
            part = Part(session, window)
            sealed = rebuild(scratch, part)
            trial.books.add(sealed.books)
            tickers |= {ticker for ticker, one in sealed.tickers.items() if one.recorded}
            told = dict.fromkeys([*trial.reasons, *_reasons(scratch.quarantine(part))])
            trial.reasons[:] = list(told)[:_REASONS]
    return Trial(trial.books, len(tickers), trial.reasons)


@contextlib.contextmanager
def _scratch(layout: Layout) -> Iterator[Path]:
    """A folder that is thrown away; a data folder that is not there is not made for it."""
    if layout.root.is_dir():
        with files.temporary_folder(layout.scratch) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _beginning(source: Source) -> Iterator[list[Row]]:
    for rows in itertools.islice(source.blocks(), 1):
        yield rows[:_FIRST_ROWS]


def _reasons(quarantine: Path) -> Iterator[str]:
    if quarantine.exists():
        with quarantine.open(encoding="utf-8") as file:
            for refused in parse(itertools.islice(file, _REFUSED_LINES)):
                yield refused.reason


def import_file(layout: Layout, source: Source, clock: Clock = SYSTEM_CLOCK) -> Report | None:
    """Import a file; ``None`` if another process is at it, or has done it meanwhile.

    Raises:
        NothingThere: it has no rows.
        StoreError: it cannot be read, or not one of its first rows passes the schema; nothing was
            imported.
    """
    trial = try_out(layout, source, whole=False)
    if not trial.books.frames:
        raise NothingThere(f"{source.path} has no rows.")
    if not trial.books.recorded:
        raise StoreError(
            f"Not one of the first {trial.books.trades:,} rows of {source.path} passes, the first "
            f"because: {trial.reasons[0]}. Nothing was imported: see whether its columns, the unit "
            "of its times and their zone are as you say."
        )
    return import_rows(layout, Origin.of(source), source.blocks(), clock)


def import_rows(
    layout: Layout, origin: Origin, blocks: Iterable[Iterable[Row]], clock: Clock = SYSTEM_CLOCK
) -> Report | None:
    """Import what ``blocks`` give; ``None`` if another process is at it, or has done it meanwhile.

    The session's name is made of the first time in them and the origin's digest.
    """
    digest = origin.digest
    with contextlib.ExitStack() as claimed:
        with files.temporary_folder(layout.tapes(digest)) as staged:
            tapes = _write(staged, origin, blocks)
            session = origin.name(tapes.first or 0, digest)
            try:
                claimed.enter_context(lock.held(layout.lock(session), {"session": session}))
            except BlockingIOError:
                return None
            if layout.imports(digest):
                return None
            files.publish(staged, layout.tapes(session))
        return _import(layout, session, tapes, origin, clock)


def _write(folder: Path, origin: Origin, blocks: Iterable[Iterable[Row]]) -> _Tapes:
    size = Settings.load().roll_size
    tapes = _Tapes(folder, RollPolicy(86_400.0, size), origin.facts)
    try:
        for rows in blocks:
            tapes.write(rows)
        tapes.tell(origin.coverage)
    finally:
        tapes.close()
    return tapes


def _import(layout: Layout, session: str, tapes: _Tapes, origin: Origin, clock: Clock) -> Report:
    lake = {"lake": layout.lake} if layout.lake else {}
    coverage = origin.coverage
    began = min((each.start for each in coverage), default=clock.wall())
    report = new_report(session, [], began, {**origin.facts, **lake})
    report.reason = origin.reason
    report.unpublished = list(tapes.windows)
    journal = Journal(layout, report, Audit(layout.audit, session, clock))
    journal.audit("import", source=origin.facts["source"], content=origin.digest)
    journal.save()
    for window in tapes.windows:
        journal.published(publish(layout, Part(session, window), whole=False))
    report.tickers = sorted(name for name, one in report.per_ticker.items() if one.recorded)
    report.copies = copies_of_session(layout, session, report.dates)
    report.gaps = gap_reports(Coverage(list(coverage)))
    vouch(layout, report, write_coverage(layout, session, coverage))
    report.state = state_of(session)
    report.ended = utc(max((each.end for each in coverage), default=clock.wall()))
    journal.save()
    deliver(layout, report, clock)
    return report
