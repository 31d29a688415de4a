"""Import jobs: what `stocktrace import` has to do, on several processes.

Each job is one session: a crashed one of this data folder, one of another data folder, or a
third-party file. A job is idempotent and can be killed at any point. Jobs are independent and run
in processes, because decoding and validation keep a core busy each.
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
from stocktrace.importing.csv_source import ENDINGS, UNREAD_ENDINGS, CsvSource, EmptySource
from stocktrace.importing.importer import find_import, import_file, preview_import
from stocktrace.record.recovery import recover_session, sweep_temporaries
from stocktrace.sessions.catalog import sessions_to_recover
from stocktrace.store.files import make_folder
from stocktrace.store.layout import Layout
from stocktrace.text import encodable, printable

#: The source was published, was here already, is empty, could not be published, or (in a dry run)
#: could be.
ImportState = Literal["published", "known", "empty", "failed", "possible"]
_OTHER_PROCESS = "another process publishes it"


@dataclass(frozen=True, slots=True)
class ImportJob:
    """One source; ``session`` is ``None`` for a third-party file."""

    path: Path
    session: str | None = None


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The result of one job; ``reason`` says why it failed, or why rows were refused."""

    source: str
    state: ImportState
    session: str = ""
    rows: int = 0
    quarantined: int = 0
    tickers: int = 0
    reason: str = ""


def plan_imports(layout: Layout, sources: Sequence[Path]) -> list[ImportJob]:
    """List the jobs for ``sources``: files, data folders and folders of CSV files.

    The crashed sessions of this data folder always come first. A source that exists but cannot be
    read is a job too: it fails when its turn comes, and the others are published.

    Raises:
        UsageError: a source does not exist, or there is nothing in it.
    """
    root = os.path.realpath(layout.root)
    jobs = [ImportJob(layout.root, session) for session in sessions_to_recover(layout)]
    for source in sources:
        if os.path.realpath(source) != root:
            jobs += _jobs_of(source)
    return list(dict.fromkeys(jobs))


def _jobs_of(source: Path) -> list[ImportJob]:
    try:
        if not source.is_dir():
            source.lstat()
            return [ImportJob(source)]
        if is_data_folder(source):
            return [ImportJob(source, session) for session in Layout(source).all_sessions()]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{source} does not exist: name files or folders that exist.") from None
    except OSError:  # no permission
        return [ImportJob(source)]
    files = _csv_files(source)
    if not files and not source.name.endswith(ENDINGS):
        raise UsageError(f"{source} is not a data folder and has no {' or '.join(ENDINGS)} files.")
    return [ImportJob(path) for path in files or [source]]


def _csv_files(folder: Path) -> list[Path]:
    """The CSV files in a folder and its subfolders, and the subfolders that cannot be listed."""
    sources: list[Path] = []

    def add_unreadable(error: OSError) -> None:
        sources.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=add_unreadable):
        paths = (Path(parent, name) for name in (*folders, *names))
        sources += [path for path in paths if path.name.endswith((*ENDINGS, *UNREAD_ENDINGS))]
    # A folder may be called trades.csv: it is a source only if it has no CSV file in it.
    holders = {parent for path in sources for parent in path.parents}
    return sorted(path for path in sources if path not in holders)


def run_imports(
    layout: Layout,
    jobs: Sequence[ImportJob],
    mapping: ColumnMapping,
    *,
    processes: int | None = None,
    dry_run: bool = False,
) -> Iterator[ImportOutcome]:
    """Run jobs on ``processes`` processes (default: one per core); yields each result when done.

    A dry run changes nothing; its results say what would happen.
    """
    if not dry_run:
        make_folder(layout.root)
        sweep_temporaries(layout)
    run = partial(_run_job, layout, mapping, dry_run=dry_run)
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if count > 1:
        yield from _run_in_processes(run, jobs, count)
    else:
        yield from map(run, jobs)


def _run_job(
    layout: Layout, mapping: ColumnMapping, job: ImportJob, *, dry_run: bool
) -> ImportOutcome:
    """Run one job; an error is its result, and does not stop the other jobs."""
    try:
        if job.session is None:
            outcome = _import_csv(layout, mapping, job.path, dry_run=dry_run)
        else:
            outcome = _publish_session(layout, job.path, job.session, dry_run=dry_run)
    except EmptySource as error:
        outcome = ImportOutcome(str(job.path), "empty", reason=str(error))
    except (StocktraceError, OSError) as error:
        outcome = ImportOutcome(str(job.path), "failed", job.session or "", reason=str(error))
    except Exception as error:  # noqa: BLE001 - an unexpected file must not stop the other jobs
        reason = f"{job.path} cannot be published ({type(error).__name__}: {error})."
        outcome = ImportOutcome(str(job.path), "failed", job.session or "", reason=reason)
    return replace(
        outcome, source=encodable(outcome.source), reason=encodable(printable(outcome.reason))
    )


def _import_csv(
    layout: Layout, mapping: ColumnMapping, path: Path, *, dry_run: bool
) -> ImportOutcome:
    source = CsvSource.of(path, mapping)
    if (session := find_import(layout, source)) is not None:
        return ImportOutcome(str(path), "known", session)
    if dry_run:
        preview = preview_import(layout, source)
        books, tickers, reasons = preview.books, preview.tickers, "; ".join(preview.reasons)
        if not books.recorded:
            raise StoreError(f"Not one row of {path} is valid: {reasons}.")
        return ImportOutcome(
            str(path), "possible", "", books.recorded, books.quarantined, tickers, reasons
        )
    report = import_file(layout, source)
    if report is None:
        return ImportOutcome(str(path), "known", reason=_OTHER_PROCESS)
    books = report.books
    return ImportOutcome(
        str(path),
        "published" if report.balanced else "failed",
        report.session,
        books.recorded,
        books.quarantined,
        sum(counts.recorded > 0 for counts in report.per_ticker.values()),
        "; ".join(report.differences()),
    )


def _publish_session(layout: Layout, folder: Path, session: str, *, dry_run: bool) -> ImportOutcome:
    is_here, other = folder == layout.root, Layout(folder)
    if not is_here and layout.has(session):
        return ImportOutcome(str(folder), "known", session)
    if dry_run:
        if not is_here:
            check_session(other, session)
        return ImportOutcome(str(folder), "possible", session)
    if is_here:
        recovered = recover_session(layout, session)
    else:
        recovered = adopt_session(layout, other, session)
    if recovered is None:
        return ImportOutcome(str(folder), "known", session, reason=_OTHER_PROCESS)
    reason = "" if recovered.balanced else "its books do not balance"
    state: ImportState = "published" if recovered.balanced else "failed"
    return ImportOutcome(str(folder), state, session, recovered.rows, reason=reason)


def _run_in_processes(
    run: partial[ImportOutcome], jobs: Iterable[ImportJob], count: int
) -> Iterator[ImportOutcome]:
    # A process that is forked from one with threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare_process)
    running = [pool.submit(run, job) for job in jobs]
    try:
        for done in as_completed(running):
            yield done.result()
    except BrokenProcessPool as error:
        raise StoreError(
            "A process of the import was killed, perhaps because memory ran out: run it again with "
            "fewer --jobs. What was published stays."
        ) from error
    except BaseException:
        # The next import starts their jobs again: do not wait for them.
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """End a process of the pool together with its parent, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(1)
