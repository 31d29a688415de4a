"""Compaction of a data folder: merge the files of each finished date into one.

A date is compacted when it has ended (UTC) and nothing of it is still unpublished: no plain tape,
no segment, no crashed session with windows of it. Files that a recovery publishes later stay beside
the day's file until the next compaction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import date, timedelta

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StocktraceError, UsageError
from stocktrace.sessions.catalog import read_report, sessions_to_recover
from stocktrace.store.audit import AuditLog
from stocktrace.store.compaction import CompactedDate, compact_date, finish_swap
from stocktrace.store.layout import Layout
from stocktrace.store.lock import compaction_lock
from stocktrace.store.names import WindowId
from stocktrace.units import utc_datetime

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CompactionResult:
    """Compacted dates, postponed dates with the reason, and failures as messages.

    ``crashed`` are the sessions whose recovery is needed first.
    """

    done: list[CompactedDate] = field(default_factory=list)
    postponed: dict[str, str] = field(default_factory=dict)
    crashed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def compact_days(
    layout: Layout, day: date | None = None, *, older_than: float = 0.0, clock: Clock = SYSTEM_CLOCK
) -> CompactionResult:
    """Compact all dates that ended over ``older_than`` seconds ago, or just ``day``.

    Raises:
        UsageError: ``day`` has not ended.
        StoreError: another process compacts or verifies.
    """
    now = utc_datetime(clock.wall())
    last = (now - timedelta(seconds=older_than)).date() - timedelta(days=1)
    if day is not None and day >= now.date():
        raise UsageError(f"{day} has not ended (UTC): compact it from the next day on.")
    result = CompactionResult()
    with compaction_lock(layout):
        audit = AuditLog(layout.audit, "", clock)
        for staged in layout.compaction_leftovers():  # finish what a killed compaction began
            try:
                finish_swap(layout, staged.name.removeprefix("date="))
            except StocktraceError as error:
                result.failed.append(str(error))
        postponed = _postponed_dates(layout)
        for name in layout.dates():
            if name != str(day) if day is not None else name > last.isoformat():
                continue
            if name in postponed:
                result.postponed[name], crashed = postponed[name]
                result.crashed += crashed
            else:
                _compact_date(layout, name, result, audit)
    return result


def _compact_date(layout: Layout, name: str, result: CompactionResult, audit: AuditLog) -> None:
    try:
        done = compact_date(layout, name)
    except StocktraceError as error:
        result.failed.append(str(error))
        return
    if done is not None:
        result.done.append(done)
        before = done.size_before
        audit("compact", date=name, files=done.files, rows=done.rows, before=before, size=done.size)


def _postponed_dates(layout: Layout) -> dict[str, tuple[str, list[str]]]:
    """Dates that cannot be compacted yet, with the reason and the crashed session, if any."""
    dates: dict[str, tuple[str, list[str]]] = {}
    parts = [WindowId.of_tape(path) for path in layout.plain_tapes()]
    parts += [WindowId.parse(path) for path in layout.all_segments()]
    for part in parts:
        dates[part.date] = f"window {part.window} of {part.session} is not published", []
    for session in sessions_to_recover(layout):
        report = read_report(layout, session)
        parts = [WindowId(session, window) for window in (report.windows if report else ())]
        for part in (*parts, *layout.session_tapes(session)):
            dates[part.date] = f"session {session} crashed: run `stocktrace recover`", [session]
    return dates
