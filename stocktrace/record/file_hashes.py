"""Hashes in the report of files that nothing else proves once the tapes are deleted.

These are a session's coverage and quarantine: ``SessionReport.hashes`` has the SHA-256 of each
file, by its path in the data folder. Parquet files contain their own hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from stocktrace.sessions.report import SessionReport
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId


def hash_files(layout: Layout, report: SessionReport, coverage: Collection[Path]) -> None:
    """Put the hashes of ``coverage`` and of all quarantine of a session into its report."""
    report.hashes = {}
    quarantine = _quarantine(layout, report, {*report.windows, *report.unpublished})
    update_hashes(layout, report, [*coverage, *quarantine])


def update_hashes(layout: Layout, report: SessionReport, paths: Collection[Path]) -> None:
    """Update the hashes of ``paths``, of which some may not exist, if the report has hashes."""
    if report.hashes is None:
        return
    for path in paths:
        name = str(path.relative_to(layout.root))
        if path.exists():
            report.hashes[name] = _hash(path)
        else:
            report.hashes.pop(name, None)
    report.hashes = dict(sorted(report.hashes.items()))


def has_hash(layout: Layout, report: SessionReport, path: Path) -> bool:
    """Return whether a file has its hash in the report."""
    hashes = report.hashes or {}
    return hashes.get(str(path.relative_to(layout.root))) == _hash(path)


def find_differences(
    layout: Layout, report: SessionReport, dates: Iterable[str]
) -> Iterator[tuple[Path, str]]:
    """Yield each file that differs from its hash in the report, and how.

    Coverage that the report does not list is searched under the dates of its windows and under
    ``dates``. The quarantine of windows that wait for a recovery is skipped.
    """
    if report.hashes is None:
        return
    listed = {layout.root / name for name in report.hashes}
    present = [
        *(layout.coverage(report.session, date) for date in {*report.dates, *dates}),
        *_quarantine(layout, report, {*report.windows, *report.unpublished}),
    ]
    waiting = _quarantine(layout, report, report.unpublished)
    for path in sorted({*listed, *filter(Path.exists, present)}.difference(waiting)):
        known = report.hashes.get(str(path.relative_to(layout.root)))
        if not path.exists():
            yield path, "is missing"
        elif known is None:
            yield path, "is not in the report of its session"
        elif known != _hash(path):
            yield path, "was changed: its hash is not the one in the report"


def _quarantine(layout: Layout, report: SessionReport, windows: Iterable[str]) -> list[Path]:
    return [layout.quarantine(WindowId(report.session, window)) for window in windows]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
