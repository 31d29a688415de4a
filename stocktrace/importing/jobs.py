"""What older sessions and other people's CSV files left, published in this data folder.

Each piece of work is one session: one that died here, one of another data folder, or one that a
foreign file becomes. Each is idempotent and can be killed anywhere; they have nothing to do with
one another and go on several processes, for decoding and checking keep a core busy each.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

from stocktrace.errors import StocktraceError, StoreError, UsageError
from stocktrace.importing.adopt import adopt_session, check_session, is_data_folder
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.csv_reader import ENDINGS, UNREAD_ENDINGS
from stocktrace.importing.csv_source import CsvSource, EmptySource
from stocktrace.importing.importer import dry_run, find_import, import_file
from stocktrace.record.recovery import recover_session, sweep_temporaries
from stocktrace.sessions.catalog import sessions_to_recover
from stocktrace.store.layout import Layout
from stocktrace.text import encodable, printable

#: What became of one source: it was published, was here already, has nothing in it, could not be
#: published, or (only looked at) could be.
ImportState = Literal["published", "known", "empty", "failed", "possible"]


@dataclass(frozen=True, slots=True)
class ImportJob:
    """One source; ``session`` is named unless ``path`` is a foreign file."""

    path: Path
    session: str | None = None


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """What became of one source; ``reason`` says why, or what was refused."""

    source: str
    state: ImportState
    session: str = ""
    rows: int = 0
    quarantined: int = 0
    tickers: int = 0
    reason: str = ""


def plan_imports(layout: Layout, sources: Sequence[Path]) -> list[ImportJob]:
    """The work that ``sources`` are: files, data folders, folders of CSV files; or, none, this one.

    What died in this data folder always comes first. A source that is there and cannot be read is
    work, too: it fails in its turn and keeps none of the others from being published.

    Raises:
        UsageError: a source is not there, or there is nothing in it.
    """
    root = os.path.realpath(layout.root)
    found = [ImportJob(layout.root, session) for session in sessions_to_recover(layout)]
    for source in sources:
        if os.path.realpath(source) != root:
            found += _work_of(source)
    return list(dict.fromkeys(found))


def _work_of(source: Path) -> list[ImportJob]:
    try:
        if not source.is_dir():
            source.lstat()
            return [ImportJob(source)]
        if is_data_folder(source):
            return [ImportJob(source, session) for session in Layout(source).all_sessions()]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"There is no {source}: name files or folders that are there.") from None
    except OSError:  # it may not be looked at
        return [ImportJob(source)]
    files = _csv_files(source)
    if not files and not source.name.endswith(ENDINGS):
        raise UsageError(f"{source} is no data folder and has no {' or '.join(ENDINGS)}.")
    return [ImportJob(path) for path in files or [source]]


def _csv_files(folder: Path) -> list[Path]:
    """What is called CSV in a folder and those below it, and those that cannot be listed."""
    found: list[Path] = []

    def note(error: OSError) -> None:
        found.append(Path(error.filename))

    for at, folders, names in os.walk(folder, onerror=note):
        some = (Path(at, name) for name in (*folders, *names))
        found += [path for path in some if path.name.endswith((*ENDINGS, *UNREAD_ENDINGS))]
    # A folder may be called trades.csv: it is a source of its own only if it holds none.
    holders = {parent for path in found for parent in path.parents}
    return sorted(path for path in found if path not in holders)


def run_imports(
    layout: Layout,
    work: Sequence[ImportJob],
    mapping: ColumnMapping,
    *,
    jobs: int | None = None,
    only_look: bool = False,
) -> Iterator[ImportOutcome]:
    """Do the work, on ``jobs`` processes (default: as many as cores), as it gets done.

    With ``only_look`` nothing is changed, and the outcomes say what would be.
    """
    if not only_look:
        layout.root.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(layout)
    do = partial(_run_job, layout, mapping, only_look)
    count = min(jobs or len(os.sched_getaffinity(0)), len(work))
    if count > 1:
        yield from _run_in_processes(do, work, count)
    else:
        yield from map(do, work)


def _run_job(
    layout: Layout, mapping: ColumnMapping, only_look: bool, work: ImportJob
) -> ImportOutcome:
    """Do one piece of work; whatever is wrong with it is its outcome, and the others go on."""
    try:
        if work.session is None:
            outcome = _import(layout, mapping, work.path, only_look=only_look)
        else:
            outcome = _publish(layout, work.path, work.session, only_look=only_look)
    except EmptySource as error:
        outcome = ImportOutcome(str(work.path), "empty", reason=str(error))
    except (StocktraceError, OSError) as error:
        outcome = ImportOutcome(str(work.path), "failed", work.session or "", reason=str(error))
    except Exception as error:  # noqa: BLE001 - a file that nobody thought of must not stop six
        reason = f"{work.path} cannot be published ({type(error).__name__}: {error})."
        outcome = ImportOutcome(str(work.path), "failed", work.session or "", reason=reason)
    return replace(
        outcome, source=encodable(outcome.source), reason=encodable(printable(outcome.reason))
    )


def _import(
    layout: Layout, mapping: ColumnMapping, path: Path, *, only_look: bool
) -> ImportOutcome:
    source = CsvSource.of(path, mapping)
    if (session := find_import(layout, source)) is not None:
        return ImportOutcome(str(path), "known", session)
    if only_look:
        trial = dry_run(layout, source)
        books, tickers, reasons = trial.books, trial.tickers, "; ".join(trial.reasons)
        if not books.frames:
            raise EmptySource(f"{path} has no rows.")
        if not books.recorded:
            raise StoreError(f"Not one row of {path} would pass: {reasons}.")
        return ImportOutcome(
            str(path), "possible", "", books.recorded, books.quarantined, tickers, reasons
        )
    report = import_file(layout, source)
    if report is None:
        return ImportOutcome(str(path), "known", reason="another process is at it")
    books = report.books
    return ImportOutcome(
        str(path),
        "published" if report.balanced else "failed",
        report.session,
        books.recorded,
        books.quarantined,
        sum(one.recorded > 0 for one in report.per_ticker.values()),
        "; ".join(report.differences()),
    )


def _publish(layout: Layout, folder: Path, session: str, *, only_look: bool) -> ImportOutcome:
    ours, other = folder == layout.root, Layout(folder)
    if not ours and layout.has(session):
        return ImportOutcome(str(folder), "known", session)
    if only_look:
        if not ours:
            check_session(other, session)
        return ImportOutcome(str(folder), "possible", session)
    recovered = recover_session(layout, session) if ours else adopt_session(layout, other, session)
    if recovered is None:
        return ImportOutcome(str(folder), "known", session, reason="another process is at it")
    balance = "" if recovered.balanced else "its books do not balance"
    state: ImportState = "published" if recovered.balanced else "failed"
    return ImportOutcome(str(folder), state, session, recovered.rows, reason=balance)


def _run_in_processes(
    do: partial[ImportOutcome], work: Iterable[ImportJob], count: int
) -> Iterator[ImportOutcome]:
    # A process that was forked from one with threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare_process)
    running = [pool.submit(do, each) for each in work]
    try:
        for done in as_completed(running):
            yield done.result()
    except BrokenProcessPool as error:
        raise StoreError(
            "A process of the backfill was killed, perhaps for want of memory: run it again, with "
            "fewer jobs; what was done stays done."
        ) from error
    except BaseException:
        # What they are at is begun again the next time: nobody need wait for it.
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """In a process of the pool: end with the parent, however it ends, and not with a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(1)
