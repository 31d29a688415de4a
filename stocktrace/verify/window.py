"""One window against its tape: recorded once more into a scratch folder, and compared."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import ConversionError
from stocktrace.record.publish import rebuilt_copy
from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import SessionReport
from stocktrace.store import conversion, footer, parquet, segments
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.partition import WindowRows
from stocktrace.store.quarantine import QuarantineEncoder, parse_quarantine
from stocktrace.verify.day_files import DayFiles
from stocktrace.verify.finding import Finding
from stocktrace.verify.footer import check_without_tape, footer_problem
from stocktrace.verify.rebuild_day import rebuild_day
from stocktrace.verify.tapes import find_shortage


def check_against_tape(
    layout: Layout,
    part: WindowId,
    days: DayFiles,
    report: SessionReport | None,
    counted: dict[str, SealedWindow],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """Each file of a window against what its tape gives; its books go into ``counted``.

    A tape that has less than the books vouch for is a finding itself, and proves nothing.
    """
    with rebuilt_copy(layout, part) as (scratch, sealed):
        if problem := find_shortage(layout, report, sealed):
            yield Finding(part.session, layout.tape_of(part), problem)
            yield from check_without_tape(layout, part, days, report)
        else:
            counted[part.window] = sealed
            yield from _against(layout, scratch, part, days, repair=repair)


def _against(
    layout: Layout, scratch: Layout, part: WindowId, days: DayFiles, *, repair: bool
) -> Iterator[Finding]:
    """Each file of a window against those in ``scratch``."""
    window = _WindowFiles(layout, part, layout.tape_of(part))
    segments = {scratch.ticker_of_csv(path): path for path in scratch.sealed_segments(part)}
    for ticker, segment in segments.items():
        if days.is_broken(ticker, part):
            continue  # it was told of
        if piece := days.of_part(part).get(ticker):
            yield from _check_day_rows(days, piece, segment, window.tape, repair=repair)
            continue
        for path, problem, mendable in window.wrong_files(ticker, segment):
            if repair and mendable:
                _restore_file(layout, part, ticker, segment)
            yield Finding(part.session, path, problem, repaired=repair and mendable)
    for path in window.files:
        if path not in window.expected:
            yield Finding(part.session, path, "holds trades that the tape does not have there")
    for ticker, piece in days.of_part(part).items():
        if ticker not in segments:
            problem = f"holds trades of window {part.stem} that the tape does not have"
            mended = repair and rebuild_day(layout, piece.path, part)
            yield Finding(part.session, piece.path, problem, repaired=mended)
    yield from _check_quarantine(layout, scratch, part, repair=repair)


def _check_day_rows(
    days: DayFiles, piece: WindowRows, segment: Path, tape: Path, *, repair: bool
) -> Iterator[Finding]:
    """A window that is part of the file of its day, against the segment of the tape."""
    wanted = content_hash(segments.read_segment(segment)).hexdigest()
    problem = days.problem(piece, wanted)
    if problem is not None:
        archived = tape.suffix == ".zst"
        mended = repair and archived and rebuild_day(days.layout, piece.path, piece.part)
        yield Finding(piece.part.session, piece.path, problem, repaired=mended)
        if mended:
            days.read()


@dataclass(slots=True)
class _WindowFiles:
    """What of one window stands on disk; ``expected`` are the files that may be there."""

    layout: Layout
    part: WindowId
    tape: Path
    expected: set[Path] = field(default_factory=set)

    @property
    def files(self) -> list[Path]:
        """The files of trades that readers and ``convert`` find."""
        published = self.layout.published_window(self.part)
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
        wanted = content_hash(segments.read_segment(segment))
        try:
            found = content_hash(parquet.read_trade_file(final))
            told = footer.read_footer(final)
        except ConversionError as error:
            yield final, str(error), True
            return
        if found.hexdigest() != wanted.hexdigest():
            difference = f"other trades ({found.rows:,}) than the {wanted.rows:,}"
            if self.tape.suffix == ".tape" and told.get("content") == found.hexdigest():
                yield self.tape, f"{final}, which is whole, holds {difference} here", False
            else:
                yield final, f"holds {difference} of {self.tape}", True
        elif problem := footer_problem(final, told, self.part, wanted.hexdigest()):
            yield final, problem, True


def _restore_file(layout: Layout, part: WindowId, ticker: str, segment: Path) -> None:
    """Put the segment of the tape in place and publish it; a wrong file is replaced as a whole."""
    sealed = layout.csv(ticker, part)
    sealed.parent.mkdir(parents=True, exist_ok=True)
    temporary = sealed.with_suffix(".csv.open")
    shutil.copyfile(segment, temporary)
    temporary.replace(sealed)
    conversion.publish_segment(layout, sealed, overwrite=True)


def _check_quarantine(
    layout: Layout, scratch: Layout, part: WindowId, *, repair: bool
) -> Iterator[Finding]:
    path, wanted = layout.quarantine(part), scratch.quarantine(part)
    if _read_refused(path) != _read_refused(wanted):
        if repair and wanted.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(wanted, path)
        elif repair:
            path.unlink()
        problem = f"does not hold what {layout.tape_of(part)} does"
        yield Finding(part.session, path, problem, repaired=repair)


def _read_refused(path: Path) -> list[tuple[str, bytes]] | None:
    """What was refused, with the frames; ``None`` if a line is not as it was written.

    Sorted: the order of a quarantine is that of batches, which the tape does not know, and so is
    which line of a frame has it.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = list(file)
        refused = list(parse_quarantine(lines))
        for line, anew, each in zip(
            lines, QuarantineEncoder().encode(refused), refused, strict=True
        ):
            # Earlier versions repeated the frame.
            if line != anew and line != each.line():
                return None
    except ValueError:
        return None
    return sorted((each.line(with_frame=False), each.frame) for each in refused)
