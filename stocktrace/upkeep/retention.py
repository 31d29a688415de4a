"""What is kept twice goes when its time is up, and not before it was compared once more."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.deadline import SYSTEM_CLOCK, Clock, utc
from stocktrace.errors import ConversionError
from stocktrace.record.recovery import dead_sessions
from stocktrace.store import lock, parquet
from stocktrace.store.audit import Audit
from stocktrace.store.content import content_hash
from stocktrace.store.exclusion import alone
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part, decode_ticker
from stocktrace.store.partition import find
from stocktrace.verify import verify


@dataclass(slots=True)
class Pruning:
    """Tapes and CSV that went, their bytes, and what stays because it does not verify, in words."""

    tapes: int = 0
    csv: int = 0
    size: int = 0
    kept: list[str] = field(default_factory=list)


def prune(
    layout: Layout,
    keep_tape: float | None = None,
    keep_csv: float | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Pruning:
    """Delete tapes and published CSV that are older than so many seconds; ``None`` is forever.

    The tapes of a session go together, when it has ended, its last window is old enough, and
    ``verify`` finds nothing wrong with the session just now. A CSV goes when the published rows
    are read and equal it.

    Raises:
        StoreError: another process compacts or verifies.
    """
    result = Pruning()
    with alone(layout):
        if keep_csv is not None:
            for path in layout.kept():
                if _age(Part.parse(path), clock) > keep_csv:
                    _prune_csv(layout, path, result, clock)
        if keep_tape is not None:
            idle = {name for name in layout.all_sessions() if not lock.is_held(layout.lock(name))}
            for session in sorted(idle - set(dead_sessions(layout))):
                tapes = layout.session_tapes(session)
                if tapes and min(_age(part, clock) for part in tapes) > keep_tape:
                    _prune_tapes(layout, session, list(tapes.values()), result, clock)
    return result


def _prune_tapes(
    layout: Layout, session: str, tapes: list[Path], result: Pruning, clock: Clock
) -> None:
    findings = list(verify(layout, session))
    result.kept += [f"{found.path}: {found.problem}" for found in findings]
    if findings:
        return
    audit = Audit(layout.audit, session, clock)
    for tape in tapes:
        result.tapes += 1
        result.size += _delete(tape, audit)
    folder = layout.tapes(session)
    if not any(folder.iterdir()):
        folder.rmdir()


def _prune_csv(layout: Layout, path: Path, result: Pruning, clock: Clock) -> None:
    ticker, part = decode_ticker(path.parent.name), Part.parse(path)
    try:
        piece = find(layout, ticker, part)
        wanted = content_hash(parquet.read_csv(path)).hexdigest()
        found = content_hash(piece.read()).hexdigest() if piece is not None else None
    except ConversionError as error:
        result.kept.append(str(error))
        return
    if found != wanted:
        result.kept.append(f"{path}: is not what is published; run `stocktrace verify`")
        return
    result.csv += 1
    result.size += _delete(path, Audit(layout.audit, part.session, clock))


def _delete(path: Path, audit: Audit) -> int:
    """Delete a file; gives its bytes. What is deleted is in the log before."""
    size = path.stat().st_size
    audit("delete", file=str(path), size=size)
    path.unlink()
    return size


def _age(part: Part, clock: Clock) -> float:
    """Seconds since a window began."""
    return (utc(clock.wall()) - part.opened).total_seconds()
