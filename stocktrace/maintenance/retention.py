"""Retention: delete old tapes and CSV files, after comparing them with the published rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import ConversionError
from stocktrace.sessions.catalog import is_finished, is_in_use
from stocktrace.store.audit import AuditLog
from stocktrace.store.conversion import compare_segments
from stocktrace.store.dataset import find_published
from stocktrace.store.layout import Layout
from stocktrace.store.lock import compaction_lock
from stocktrace.store.names import WindowId
from stocktrace.units import utc_datetime
from stocktrace.verify import verify


@dataclass(slots=True)
class PruneResult:
    """Deleted tapes and CSV files, their bytes, and why others were refused."""

    tapes: int = 0
    csv: int = 0
    size: int = 0
    refused: list[str] = field(default_factory=list)


def prune_data(
    layout: Layout,
    tape_retention: float | None = None,
    csv_retention: float | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> PruneResult:
    """Delete tapes and published CSV older than so many seconds; ``None`` means never.

    The tapes of a session are deleted together, when it has ended, all its windows are old enough
    and ``verify`` finds nothing wrong with it. The CSV files of a window are deleted together, when
    the published rows equal them.

    Raises:
        StoreError: another process compacts or verifies.
    """
    result = PruneResult()
    with compaction_lock(layout):
        if csv_retention is not None:
            windows: dict[WindowId, list[Path]] = {}
            for path in layout.kept_segments():
                windows.setdefault(WindowId.parse(path), []).append(path)
            for window, paths in windows.items():
                if _age(window, clock) > csv_retention:
                    _prune_csv(layout, window, paths, result, clock)
        if tape_retention is not None:
            for session in layout.taped_sessions():
                tapes = layout.session_tapes(session)
                is_old = tapes and min(_age(window, clock) for window in tapes) > tape_retention
                if is_old and not is_in_use(layout, session) and is_finished(layout, session):
                    _prune_tapes(layout, session, list(tapes.values()), result, clock)
    return result


def _prune_tapes(
    layout: Layout, session: str, tapes: list[Path], result: PruneResult, clock: Clock
) -> None:
    findings = list(verify(layout, session))
    result.refused += [f"{finding.path}: {finding.problem}" for finding in findings]
    if findings:
        return
    audit = AuditLog(layout.audit, session, clock)
    for tape in tapes:
        result.tapes += 1
        result.size += _delete(tape, audit)
    folder = layout.tapes(session)
    if not any(folder.iterdir()):
        folder.rmdir()


def _prune_csv(
    layout: Layout, window: WindowId, paths: list[Path], result: PruneResult, clock: Clock
) -> None:
    """Delete the segments of a window if its published rows equal them."""
    try:
        _compare_with_published(layout, window, paths)
    except ConversionError as error:
        result.refused.append(f"{error} Run `stocktrace verify`.")
        return
    audit = AuditLog(layout.audit, window.session, clock)
    for path in paths:
        result.csv += 1
        result.size += _delete(path, audit)


def _compare_with_published(layout: Layout, window: WindowId, paths: list[Path]) -> None:
    published = find_published(layout, window)
    if published is None:
        raise ConversionError(f"The trades of {paths[0]} are not published.")
    compare_segments(published, {layout.ticker_of_csv(path): path for path in paths})


def _delete(path: Path, audit: AuditLog) -> int:
    """Record the deletion of a file in the audit log, delete it and return its size."""
    size = path.stat().st_size
    audit("delete", file=str(path), size=size)
    path.unlink()
    return size


def _age(part: WindowId, clock: Clock) -> float:
    """The seconds since a window began."""
    return (utc_datetime(clock.wall()) - part.opened_at).total_seconds()
