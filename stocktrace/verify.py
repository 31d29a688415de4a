"""Verification: everything on disk is counted and compared again, from the tape.

Each window is recorded once more into a scratch folder, through the code that recorded it, and each
file is compared with what came out: Parquet by content and statistics, CSV byte by byte, quarantine
line by line (whose order is that of batches), books number by number, coverage by the marks.

The tape is the truth, but only an archived one proves by its checksum that it is what was written.
A Parquet file that is whole by its own footer is not blamed, nor replaced, for differing from a
tape that is not archived. A window whose tape is gone or damaged is checked against the footers of
its files and the report.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.compacted import Days, misplaced, sessions_in_days
from stocktrace.coverage import Coverage
from stocktrace.errors import ConversionError, LayoutError
from stocktrace.gap import Interval
from stocktrace.mending import mend_day
from stocktrace.publish import again, tape_of
from stocktrace.recorder import Sealed
from stocktrace.recovery import coverage_of, read_report, recount
from stocktrace.report import Books, Report, TickerBooks
from stocktrace.session import Journal
from stocktrace.store import lock, parquet
from stocktrace.store.audit import Audit
from stocktrace.store.coverage import cut, read_file, write_coverage
from stocktrace.store.layout import Layout, Part, decode_ticker, is_day, is_session
from stocktrace.store.partition import Piece
from stocktrace.store.tape import Mark, TapeReader
from stocktrace.store.window import utc_date

_NS_PER_US = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: which file, and what; ``repaired`` if it was."""

    session: str
    path: Path
    problem: str
    repaired: bool = False


def sessions_of(layout: Layout) -> list[str]:
    """All sessions of a data folder that are not alive."""
    names = {path.name for path in layout.root.glob("tape/*")}
    names |= {path.stem for path in layout.sessions.glob("*.json")}
    names |= {path.name[: path.name.find("-")] for path in _parquet_files(layout)}
    names |= sessions_in_days(layout)
    return sorted(
        name for name in names if is_session(name) and not lock.is_held(layout.lock(name))
    )


def _parquet_files(layout: Layout) -> Iterator[Path]:
    for path in sorted(layout.dataset.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(layout.dataset).parts):
            yield path


def strangers(layout: Layout) -> Iterator[Finding]:
    """Files among the published ones that readers take for trades and no session put there."""
    for path in _parquet_files(layout):
        if path.parent.name == "symbol=~":
            if not _is_anchor(path):
                yield Finding("", path, "is no file without rows: remove it")
            continue
        try:
            if is_day(path):
                yield from (Finding("", path, problem) for problem in misplaced(layout, path))
                continue
            part = Part.parse(path)
            ticker = decode_ticker(path.parent.name.removeprefix("symbol="))
        except LayoutError as error:
            yield Finding("", path, str(error))
            continue
        if path != layout.parquet(ticker, part):
            yield Finding(part.session, path, "is not where it belongs: remove it")


def _is_anchor(path: Path) -> bool:
    try:
        return not parquet.content_hash(parquet.read_parquet(path)).rows
    except ConversionError:
        return False


def verify(layout: Layout, session: str, *, repair: bool = False) -> Iterator[Finding]:
    """All that is wrong with a session; with ``repair`` what the tape can bring back is rebuilt."""
    report = read_report(layout, session)
    if report is None:
        problem = "the report is missing or cannot be read: run `stocktrace recover`"
        yield Finding(session, layout.report(session), problem)
    tapes = layout.session_tapes(session)
    published = [Part.parse(path) for _, path in layout.published(session)]
    told = [Part(session, window) for window in report.windows] if report is not None else []
    days = Days(layout, session, {part.date for part in (*tapes, *told)} if told else None)
    for path, problem in days.broken.items():
        yield Finding(session, path, problem, repaired=repair and mend_day(layout, path))
    days.look()
    counted: dict[str, Sealed] = {}
    for part in sorted({*tapes, *published, *told, *days.held}, key=lambda part: part.window):
        problems = _tape_problems(session, tapes[part]) if part in tapes else []
        yield from problems
        if part in tapes and not problems:
            yield from _against_tape(layout, part, days, counted, repair=repair)
        else:
            yield from _by_themselves(layout, part, days, report)
    if report is not None:
        yield from _report(layout, report, counted, days, repair=repair)
        windows = {part.window for part in tapes}
        # Tapes are removed when they are old: what is left does not tell how it began.
        if windows and report.windows.keys() <= windows == counted.keys():
            yield from _coverage(layout, report, repair=repair)


# --- a window ----------------------------------------------------------------------------------


def _tape_problems(session: str, tape: Path) -> list[Finding]:
    reader, marks = TapeReader(tape), Coverage()
    try:
        for entry in reader:
            if isinstance(entry, Mark):
                marks.add(entry)
    except OSError as error:
        return [Finding(session, tape, f"cannot be read: {error.strerror or error}")]
    found = []
    if reader.broken:
        found.append(f"is damaged: {reader.broken}")
    if reader.bad_lines:
        found.append(f"has {reader.bad_lines} lines that are none of a tape")
    if marks.unreadable:
        found.append(f"has {marks.unreadable} marks without the facts that they promise")
    if reader.torn_bytes:
        found.append(f"ends in a torn line of {reader.torn_bytes} bytes")
    return [Finding(session, tape, problem) for problem in found]


def _against_tape(
    layout: Layout, part: Part, days: Days, counted: dict[str, Sealed], *, repair: bool
) -> Iterator[Finding]:
    with again(layout, part) as (scratch, sealed):
        counted[part.window] = sealed
        window = _Window(layout, part, tape_of(layout, part))
        segments = {scratch.ticker_of_csv(path): path for path in scratch.sealed_segments(part)}
        for ticker, segment in segments.items():
            if days.is_broken(ticker, part):
                continue  # it was told of
            if piece := days.of_part(part).get(ticker):
                yield from _in_day(days, piece, segment, window.tape, repair=repair)
                continue
            for path, problem, mendable in window.wrong_files(ticker, segment):
                if repair and mendable:
                    _restore(layout, part, ticker, segment)
                yield Finding(part.session, path, problem, repaired=repair and mendable)
        for path in window.files:
            if path not in window.expected:
                yield Finding(part.session, path, "holds trades that the tape does not have there")
        for ticker, piece in days.of_part(part).items():
            if ticker not in segments:
                problem = f"holds trades of window {part.stem} that the tape does not have"
                mended = repair and mend_day(layout, piece.path, part)
                yield Finding(part.session, piece.path, problem, repaired=mended)
        yield from _quarantine(layout, scratch, part, repair=repair)


def _in_day(
    days: Days, piece: Piece, segment: Path, tape: Path, *, repair: bool
) -> Iterator[Finding]:
    """A window that is part of the file of its day, against the segment of the tape."""
    wanted = parquet.content_hash(parquet.read_csv(segment)).hexdigest()
    problem = days.problem(piece, wanted)
    if problem is not None:
        archived = tape.suffix == ".zst"
        mended = repair and archived and mend_day(days.layout, piece.path, piece.part)
        yield Finding(piece.part.session, piece.path, problem, repaired=mended)
        if mended:
            days.look()


@dataclass(slots=True)
class _Window:
    """What of one window stands on disk; ``expected`` are the files that may be there."""

    layout: Layout
    part: Part
    tape: Path
    expected: set[Path] = field(default_factory=set)

    @property
    def files(self) -> list[Path]:
        """The files of trades that readers and ``convert`` find."""
        published = self.layout.dataset.glob(f"date=*/symbol=*/{self.part.stem}.parquet")
        return sorted([*published, *self.layout.sealed_segments(self.part)])

    def wrong_files(self, ticker: str, segment: Path) -> Iterator[tuple[Path, str, bool]]:
        """Each wrong file of a ticker, what is wrong, and whether the tape is to mend it."""
        final = self.layout.parquet(ticker, self.part)
        sealed = self.layout.csv(ticker, self.part)
        self.expected |= {final, sealed}
        if sealed.exists() and not filecmp.cmp(sealed, segment, shallow=False):
            yield sealed, f"does not hold what {self.tape} does", True
        if not final.exists():
            if not sealed.exists():
                yield final, "is missing", True
            return
        wanted = parquet.content_hash(parquet.read_csv(segment))
        try:
            found = parquet.content_hash(parquet.read_parquet(final))
            told = parquet.metadata(final)
        except ConversionError as error:
            yield final, str(error), True
            return
        if found.hexdigest() != wanted.hexdigest():
            difference = f"{found.rows} trades that are not the {wanted.rows}"
            if self.tape.suffix == ".tape" and told.get("content") == found.hexdigest():
                yield self.tape, f"{final}, which is whole, holds {difference} here", False
            else:
                yield final, f"holds {difference} of {self.tape}", True
        elif problem := _footer_problem(final, told, self.part, wanted.hexdigest()):
            yield final, problem, True


def _footer_problem(path: Path, told: dict[str, str], part: Part, content: str) -> str | None:
    """What the footer of a file says wrongly; its pages are known to be right."""
    if (told.get("session"), told.get("window")) != (part.session, part.window):
        return "its footer tells of another session or window"
    if told.get("content") != content:
        return "its footer does not tell its content"
    if parquet.has_wrong_statistics(path):
        return "its footer has wrong statistics, by which readers pass over rows"
    return None


def _restore(layout: Layout, part: Part, ticker: str, segment: Path) -> None:
    """Put the segment of the tape in place and publish it; a wrong file is replaced as a whole."""
    sealed = layout.csv(ticker, part)
    sealed.parent.mkdir(parents=True, exist_ok=True)
    temporary = sealed.with_suffix(".csv.open")
    shutil.copyfile(segment, temporary)
    temporary.replace(sealed)
    parquet.convert(layout, sealed, anew=True)


def _quarantine(layout: Layout, scratch: Layout, part: Part, *, repair: bool) -> Iterator[Finding]:
    path, wanted = layout.quarantine(part), scratch.quarantine(part)
    if _sorted_lines(path) != _sorted_lines(wanted):
        if repair and wanted.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(wanted, path)
        elif repair:
            path.unlink()
        problem = f"does not hold what {tape_of(layout, part)} does"
        yield Finding(part.session, path, problem, repaired=repair)


def _sorted_lines(path: Path) -> list[bytes]:
    return sorted(path.read_bytes().splitlines(keepends=True)) if path.exists() else []


def _by_themselves(
    layout: Layout, part: Part, days: Days, report: Report | None
) -> Iterator[Finding]:
    """Without a tape to compare with: the content against the footers, the rows with the report."""
    rows = 0
    for path in sorted(layout.dataset.glob(f"date=*/symbol=*/{part.stem}.parquet")):
        try:
            told = parquet.metadata(path)
            found = parquet.content_hash(parquet.read_parquet(path))
        except ConversionError as error:
            yield Finding(part.session, path, str(error))
            continue
        rows += found.rows
        if problem := _footer_problem(path, told, part, found.hexdigest()):
            yield Finding(part.session, path, problem)
    for piece in days.of_part(part).values():
        rows += piece.rows
        if problem := days.problem(piece):
            yield Finding(part.session, piece.path, problem)
    books = report.windows.get(part.window) if report is not None else None
    if books is not None and rows != books.recorded and not layout.sealed_segments(part):
        problem = f"is not there, nor all its trades: {rows} of {books.recorded} are published"
        yield Finding(part.session, layout.archived_tape(part), problem)


# --- a session ---------------------------------------------------------------------------------


def _report(
    layout: Layout, report: Report, counted: dict[str, Sealed], days: Days, *, repair: bool
) -> Iterator[Finding]:
    """Where the report differs from the tapes, from what is published, and from itself."""
    session = report.session
    waiting = [f"window {window} waits: run `stocktrace recover`" for window in report.unpublished]
    wrong = [f"the books: {difference}" for difference in report.differences()]
    for window, sealed in counted.items():
        told: Books | None = report.windows.get(window)
        if told != sealed.books:
            tape = tape_of(layout, sealed.part)
            wrong.append(f"window {window}: {told} in the report, {sealed.books} on {tape}")
    if not waiting:
        wrong += _by_ticker(layout, report, counted, days)
    mended = False
    if wrong and repair and not waiting and report.windows.keys() <= counted.keys():
        _mend_report(layout, report)
        mended = report.balanced
    for problem in waiting:
        yield Finding(session, layout.report(session), problem)
    for problem in wrong:
        yield Finding(session, layout.report(session), problem, repaired=mended)


def _by_ticker(
    layout: Layout, report: Report, counted: dict[str, Sealed], days: Days
) -> Iterator[str]:
    found: dict[str, TickerBooks] = {}
    for sealed in counted.values():
        for ticker, counts in sealed.tickers.items():
            one = found.setdefault(ticker, TickerBooks())
            one.trades += counts.trades
            one.recorded += counts.recorded
            one.quarantined += counts.quarantined
    whole = report.windows.keys() <= counted.keys()
    for ticker, path in layout.published(report.session):
        one = found.setdefault(ticker, TickerBooks())
        one.files += 1
        try:
            one.parquet += int(parquet.metadata(path)["rows"])
        except ConversionError:
            continue  # it was found already
    compacted = set()
    for held in days.held.values():
        for ticker, piece in held.items():
            found.setdefault(ticker, TickerBooks()).parquet += piece.rows
            compacted.add(ticker)  # there are fewer files than the report tells
    for ticker in sorted({*found, *report.per_ticker}):
        told = report.per_ticker.get(ticker, TickerBooks())
        one = found.get(ticker, TickerBooks())
        names = ["parquet"] + (["files"] if ticker not in compacted else [])
        names += ["trades", "recorded", "quarantined"] if whole else []
        for name in names:
            if getattr(told, name) != getattr(one, name):
                yield f"{ticker}: {getattr(told, name)} {name}, on disk {getattr(one, name)}"


def _mend_report(layout: Layout, report: Report) -> None:
    """Count all windows again, and what is published; all else that the report tells stays."""
    report.books = Books()
    for counts in (report.windows, report.per_ticker, report.errors):
        counts.clear()
    audit = Audit(layout.audit, report.session)
    journal = Journal(layout, report, audit)
    recount(layout, report.session, report, journal)
    journal.save()
    audit("repair", file=str(layout.report(report.session)))


def _coverage(layout: Layout, report: Report, *, repair: bool) -> Iterator[Finding]:
    """The intervals on disk against those of the marks, up to the tapes' last sign of life."""
    session = report.session
    if report.ended is None:
        return  # written when it is recovered
    coverage, last = coverage_of(layout, session)
    wanted = _rows_by_file(layout, session, coverage.intervals, last)
    problems: dict[Path, str] = {}
    for path in sorted({*wanted, *layout.root.glob(f"coverage/date=*/{session}.parquet")}):
        try:
            found = _rows_of(path, last) if path.exists() else None
        except ConversionError as error:
            problems[path] = str(error)
            continue
        if found is None:
            problems[path] = "is missing"
        elif found != wanted.get(path, set()):
            problems[path] = f"does not tell what the marks on {layout.tapes(session)} do"
    if repair and problems:
        write_coverage(layout, session, coverage.intervals)
    for path, problem in problems.items():
        yield Finding(session, path, problem, repaired=repair and path in wanted)


#: A row of coverage: ticker, start and end (epoch us), reason.
_Row = tuple[str, int, int, str]


def _rows_by_file(
    layout: Layout, session: str, intervals: Iterable[Interval], last: int
) -> dict[Path, set[_Row]]:
    found: dict[Path, set[_Row]] = {}
    for interval in intervals:
        for piece in cut(interval):
            start, end = piece.start // _NS_PER_US, piece.end // _NS_PER_US
            rows = found.setdefault(layout.coverage(session, utc_date(piece.start)), set())
            rows.update(_until((piece.ticker, start, end, piece.reason), last))
    return found


def _rows_of(path: Path, last: int) -> set[_Row]:
    table = read_file(path)
    rows = zip(
        table["symbol"].to_pylist(),
        table["start"].cast("int64").to_pylist(),
        table["end"].cast("int64").to_pylist(),
        table["reason"].to_pylist(),
        table["state"].to_pylist(),
        strict=True,
    )
    found: set[_Row] = set()
    for ticker, start, end, reason, state in rows:
        if (state == "gap") != bool(reason):
            raise ConversionError(f"{path} calls {state!r} what has the reason {reason!r}.")
        found.update(_until((ticker, start, end, reason), last))
    return found


def _until(row: _Row, last: int) -> Iterator[_Row]:
    """``row`` as far as the tapes can tell of it."""
    ticker, start, end, reason = row
    if start < last // _NS_PER_US:
        yield ticker, start, min(end, last // _NS_PER_US), reason
