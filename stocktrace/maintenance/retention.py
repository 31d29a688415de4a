"""Retention: delete old tapes and CSV files, after comparing them with the published rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import ConversionError
from stocktrace.sessions.catalog import finished_sessions
from stocktrace.store import segments
from stocktrace.store.audit import AuditLog
from stocktrace.store.checksum import hash_tables
from stocktrace.store.dataset import find_published
from stocktrace.store.layout import Layout
from stocktrace.store.lock import compaction_lock
from stocktrace.store.names import WindowId, decode_ticker
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
    and ``verify`` finds nothing wrong with it. A CSV file is deleted when the published rows equal
    it.

    Raises:
        StoreError: another process compacts or verifies.
    """
    result = PruneResult()
    with compaction_lock(layout):
        if csv_retention is not None:
            for path in layout.kept_segments():
                if _age(WindowId.parse(path), clock) > csv_retention:
                    _prune_csv(layout, path, result, clock)
        if tape_retention is not None:
            for session in finished_sessions(layout):
                tapes = layout.session_tapes(session)
                if tapes and min(_age(part, clock) for part in tapes) > tape_retention:
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


def _prune_csv(layout: Layout, path: Path, result: PruneResult, clock: Clock) -> None:
    ticker, part = decode_ticker(path.parent.name), WindowId.parse(path)
    try:
        rows = find_published(layout, part)
        wanted = hash_tables(segments.read_segments([path]))
        published = hash_tables(rows.read([ticker])) if rows is not None else None
    except ConversionError as error:
        result.refused.append(str(error))
        return
    if published != wanted:
        result.refused.append(f"{path}: differs from the published rows; run `stocktrace verify`")
        return
    result.csv += 1
    result.size += _delete(path, AuditLog(layout.audit, part.session, clock))


def _delete(path: Path, audit: AuditLog) -> int:
    """Record the deletion of a file in the audit log, delete it and return its size."""
    size = path.stat().st_size
    audit("delete", file=str(path), size=size)
    path.unlink()
    return size


def _age(part: WindowId, clock: Clock) -> float:
    """The seconds since a window began."""
    return (utc_datetime(clock.wall()) - part.opened_at).total_seconds()
