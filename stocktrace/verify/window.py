"""Check one window against its tape, rebuilt into a scratch folder, or without a tape."""

from __future__ import annotations

import filecmp
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from stocktrace.record.file_hashes import has_hash
from stocktrace.record.publish import rebuilt_copy
from stocktrace.record.recorder import SealedWindow
from stocktrace.store import lock
from stocktrace.store.checksum import Content, hash_tables
from stocktrace.store.conversion import convert_window
from stocktrace.store.dataset import PublishedRows
from stocktrace.store.files import make_folder, publish_file
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN, WindowId
from stocktrace.store.quarantine import QuarantineEncoder, parse_quarantine
from stocktrace.store.segments import read_first_rows, read_segments
from stocktrace.verify.check import Finding, SessionCheck
from stocktrace.verify.published import FileSet
from stocktrace.verify.tapes import find_shortage

#: A file, what is wrong with it, and whether the tape can repair it.
_Problem = tuple[Path, str, bool]


def check_against_tape(check: SessionCheck, part: WindowId) -> Iterator[Finding]:
    """Compare each file of a window with its tape, and count the window.

    A tape that has less than the books prove is a finding itself, and proves nothing.
    """
    with rebuilt_copy(check.layout, part) as (scratch, sealed):
        if problem := find_shortage(check.layout, check.report, sealed):
            yield check.finding(check.layout.tape_of(part), problem)
            yield from check_without_tape(check, part)
        else:
            check.counted[part.window] = sealed
            yield from _compare_files(check, scratch, sealed)
            yield from _check_quarantine(check, scratch, part)


def _compare_files(check: SessionCheck, scratch: Layout, sealed: SealedWindow) -> Iterator[Finding]:
    """Compare the segments and the rows of a window with those in ``scratch``."""
    layout, part = check.layout, sealed.window
    segments = {scratch.ticker_of_csv(path): path for path in scratch.sealed_segments(part)}
    taped = hash_tables(read_segments(segments[ticker] for ticker in sorted(segments)))
    problems = [
        *_wrong_segments(layout, part, segments),
        *_wrong_rows(check, sealed, taped, segments),
    ]
    # All segments of a window are published together, so all must be right.
    repaired = check.repair and all(can_repair for _, _, can_repair in problems)
    if problems and repaired:
        _restore_files(check, part, segments, {path for path, _, _ in problems})
    for path, problem, _ in problems:
        yield check.finding(path, problem, repaired=repaired)


def _wrong_segments(
    layout: Layout, part: WindowId, segments: Mapping[str, Path]
) -> Iterator[_Problem]:
    for path in layout.sealed_segments(part):
        wanted = segments.get(layout.ticker_of_csv(path))
        if wanted is None:
            yield path, "has trades that the tape does not have", False
        elif not filecmp.cmp(path, wanted, shallow=False):
            yield path, f"differs from {layout.tape_of(part)}", True
    if layout.tape(part).exists():
        return  # a recovery rebuilds the window
    for path in layout.open_segments(part):
        wanted = segments.get(layout.ticker_of_csv(path))
        lines = path.read_bytes().rpartition(b"\n")[0]
        if wanted is not None and wanted.read_bytes().startswith(lines):
            yield path, "is left of a copy made while it recorded: the tape has its trades", True
        else:
            yield path, "has trades that the tape does not have", False


def _wrong_rows(
    check: SessionCheck, sealed: SealedWindow, taped: Content, segments: Mapping[str, Path]
) -> Iterator[_Problem]:
    """Yield what is wrong with the file of a window; note it for the files of a compacted date."""
    layout, part = check.layout, sealed.window
    tape, final = layout.tape_of(part), layout.window_file(part)
    counts = {name: books.recorded for name, books in sealed.tickers.items() if books.recorded}
    published = check.files.of_window(part)
    if not published and any(not layout.csv(ticker, part).exists() for ticker in counts):
        hiding = check.files.hiding(part)
        for files in hiding:
            files.wrong.add(part)  # the file has a finding
        if not hiding:
            yield final, "is missing", True
    for files in published:
        problem, repairable = files.footer_problem(part), True
        if files.held(part) != taped:
            problem, repairable = files.describe_rows(part), taped.rows > 0
            tickers = files.compare_counts(part, counts)
            is_vouched = files.is_intact(part) and (
                # Only an archived tape proves by its checksum that it is right.
                tape.suffix == ".tape"
                or (_has_reported_rows(check, files, part) and not _has_all(segments, files, part))
            )
            if is_vouched:
                text = f"{files.paths[0]}, which is intact, {problem} than the {taped.rows:,} here"
                yield tape, f"{text}{tickers}: nothing is repaired from it", False
                problem, repairable = None, False
            else:
                problem = f"{problem} than the {taped.rows:,} of {tape}{tickers}"
        if files.is_compacted:
            files.note_problem(part, problem, repairable=repairable)
        elif problem := files.damage.get(final) or problem:
            yield final, problem, repairable


def _has_reported_rows(check: SessionCheck, files: FileSet, part: WindowId) -> bool:
    books = check.report.windows.get(part.window) if check.report is not None else None
    return books is not None and books.recorded == files.held(part).rows


def _has_all(segments: Mapping[str, Path], files: FileSet, part: WindowId) -> bool:
    """Return whether the segments begin with all published rows of their window."""
    held = files.held(part)
    counts = PublishedRows(part, files.paths, held).count_trades()
    if not counts.keys() <= segments.keys():
        return False
    return held == hash_tables(
        read_first_rows(segments[ticker], counts[ticker]) for ticker in sorted(counts)
    )


def _restore_files(
    check: SessionCheck, part: WindowId, segments: Mapping[str, Path], wrong: set[Path]
) -> None:
    """Publish the segments of the tape instead of ``wrong`` files.

    If the date is compacted, only wrong segments are replaced, and a recovery compares them.
    """
    layout, final = check.layout, check.layout.window_file(part)
    for path in wrong:
        if path.suffix == OPEN:
            path.unlink()
    published = [*check.files.of_window(part), *check.files.hiding(part)]
    converts = final in wrong or not any(files.is_compacted for files in published)
    for ticker, segment in segments.items():
        sealed = layout.csv(ticker, part)
        if converts or sealed in wrong:
            make_folder(sealed.parent)
            temporary = layout.open_csv(ticker, part)
            shutil.copyfile(segment, temporary)
            publish_file(temporary, sealed)
    if converts:
        with lock.publish_lock(layout, part.session):
            convert_window(layout, part, overwrite=final in wrong)


def _check_quarantine(check: SessionCheck, scratch: Layout, part: WindowId) -> Iterator[Finding]:
    path, wanted = check.layout.quarantine(part), scratch.quarantine(part)
    held, taped = _read_refused(path), _read_refused(wanted)
    if held == taped:
        return
    is_vouched = (
        check.report is not None and path.exists() and has_hash(check.layout, check.report, path)
    )
    repaired = check.repair and not (is_vouched and Counter(held) - Counter(taped))
    if repaired and wanted.exists():
        make_folder(path.parent)
        publish_file(wanted, path)
    elif repaired:
        path.unlink()
    problem = f"differs from {check.layout.tape_of(part)}"
    yield check.finding(path, problem, repaired=repaired)


def _read_refused(path: Path) -> list[tuple[str, bytes]] | None:
    """Read the refused rows with their frames; ``None`` if a line is not as it was written.

    Sorted: the order of lines, and the line that has the frame, depend on batches, which are not on
    the tape.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = list(file)
        refused = list(parse_quarantine(lines))
        for line, written, row in zip(
            lines, QuarantineEncoder().encode(refused), refused, strict=True
        ):
            if line not in (written, row.line()):  # earlier versions repeated the frame
                return None
    except ValueError:
        return None
    return sorted((row.line(with_frame=False), row.frame) for row in refused)


def check_without_tape(check: SessionCheck, part: WindowId) -> Iterator[Finding]:
    """Compare the content of a window with its footers, and its rows with the report."""
    layout, rows = check.layout, 0
    published = check.files.of_window(part)
    if not layout.tape_of(part).exists():
        for path in layout.open_segments(part):
            text = "is a segment without a tape: compare it with the published rows"
            yield check.finding(path, f"{text}, then remove it")
    for files in published:
        rows += files.held(part).rows
        problem, path = files.footer_problem(part), files.paths[0]
        if files.is_compacted:
            files.note_problem(part, problem, repairable=False)
        elif problem := files.damage.get(path) or problem:
            yield check.finding(path, problem)
    books = check.report.windows.get(part.window) if check.report is not None else None
    if books is None or rows == books.recorded or layout.sealed_segments(part):
        return
    if len(published) > 1 or any(files.damage for files in published) or check.files.hiding(part):
        return  # the rows cannot be counted, and there is a finding
    problem = f"cannot prove its trades: {rows:,} are published, but {books.recorded:,} reported"
    yield check.finding(layout.archived_tape(part), problem)
