"""Requeue of quarantined rows that were corrected by hand, or that a new schema accepts.

The rows become a session of their own (``importing.importer``), each received when the refused
frame was; rows that are still invalid are refused again. The quarantine file stays as it is. The
requeued lines are recorded beside it (``requeue_origins``), so that no line is requeued twice, from
any copy. A line counts as requeued once the session's folder of tapes has its name.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError
from stocktrace.feed import protocol
from stocktrace.importing.importer import ImportOrigin, SessionTapes, publish_tapes
from stocktrace.maintenance.requeue_origins import (
    RequeueLedger,
    read_quarantine_lines,
)
from stocktrace.sessions.report import SessionReport, SessionState
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import, new_import, new_session
from stocktrace.text import encodable


def requeue_rows(layout: Layout, source: Path, clock: Clock = SYSTEM_CLOCK) -> SessionReport | None:
    """Validate the rows of a quarantine file, or of an edited copy, again.

    Returns the report of their session, or ``None`` if all were requeued before.

    Raises:
        UsageError: the file is not a quarantine file.
        StoreError: another process is requeuing.
    """
    try:
        with lock.hold_lock(layout.lock("requeue"), {"source": source.name}):
            return _requeue_locked(layout, source, clock)
    except BlockingIOError:
        raise StoreError("Another process is requeuing: wait until it is done.") from None


def _requeue_locked(layout: Layout, source: Path, clock: Clock) -> SessionReport | None:
    lines = list(read_quarantine_lines(source))
    ledger = RequeueLedger(layout, source, lines)
    fresh = sorted(
        (line for line in lines if isinstance(line.refused.row, dict) and not ledger.has(line)),
        key=lambda line: line.refused.stamp,
    )
    if not fresh:
        return None
    name = encodable(source.name)
    facts = {"source": name}
    session = _session_name([source.name, *map(ledger.origin, fresh)], clock)
    with lock.hold_lock(layout.lock(session), {"session": session}):
        with files.temporary_folder(layout.tapes(session)) as staged:
            tapes = SessionTapes(staged, ImportOrigin("", facts, f"requeued from {name}"))
            tapes.write(
                [[(line.refused.stamp, protocol.frame_of(line.refused.row)) for line in fresh]]
            )
            ledger.add(fresh, session)
            files.publish_file(staged, layout.tapes(session))
        state: SessionState = "imported" if is_import(session) else "complete"
        return publish_tapes(
            layout, session, tapes, clock, state=state, event="requeue", rows=len(fresh)
        )


def _session_name(origins: Iterable[str], clock: Clock) -> str:
    """A new name; rows of an import stay marked as imported."""
    if any(is_import(origin.partition("-")[0]) for origin in origins):
        return new_import(clock.wall(), secrets.token_hex(8))
    return new_session(clock.wall())
