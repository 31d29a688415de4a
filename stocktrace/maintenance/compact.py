"""Compaction of a data folder or a lake: merge the files of each finished date into one.

A date is compacted when it has ended (UTC) and nothing of it is still unpublished: no plain tape,
no segment, no crashed session with windows of it. Files that a recovery publishes later stay beside
the day's file until the next compaction.

In a lake, nobody knows what the machines have not sent yet: windows that come later are merged by
the next compaction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import date, timedelta

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import LakeError, StocktraceError, UsageError
from stocktrace.sessions.catalog import is_finished, is_in_use
from stocktrace.store.audit import AuditLog
from stocktrace.store.compaction import CompactedDate, compact_date, finish_swap, is_compacted
from stocktrace.store.files import temporary_folder
from stocktrace.store.lake import Lake
from stocktrace.store.lake_compaction import (
    delete_replaced,
    hold_lease,
    merge_lake_coverage,
    merge_lake_date,
)
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
    last = _last_date(day, older_than, clock)
    result = CompactionResult()
    with compaction_lock(layout):
        audit = AuditLog(layout.audit, "", clock)
        # A killed compaction left these.
        swapped = [staged.name.removeprefix("date=") for staged in layout.compaction_leftovers()]
        ended = [name for name in layout.dates() if name <= last]
        chosen = ended if day is None else [str(day)]
        dates = [name for name in chosen if not is_compacted(layout, name)]
        postponed = _postponed_dates(layout, dates) if dates else {}
        for name in dates:
            if name in postponed:
                result.postponed[name], crashed = postponed[name]
                result.crashed += crashed
            elif _compact_date(layout, name, result, audit):
                swapped.append(name)
            # Not all at the end: a backlog of dates would be on the disk twice.
            swapped = _finish_swaps(layout, swapped, result, wait=False)
        _finish_swaps(layout, swapped, result, wait=True)
    return result


def compact_lake(
    layout: Layout,
    url: str,
    day: date | None = None,
    *,
    older_than: float = 0.0,
    clock: Clock = SYSTEM_CLOCK,
) -> CompactionResult:
    """Compact the dates of a lake, as ``compact_days`` those of a data folder.

    Dates are merged in the data folder of ``layout``, whose audit log has them.

    Raises:
        UsageError: ``day`` has not ended.
        LakeError: The lake cannot be used, or another process compacts it.
    """
    last = _last_date(day, older_than, clock)
    lake, result = Lake.open(url), CompactionResult()
    trades, coverage = map(lake.uncompacted_dates, ("parquet", "coverage"))
    dates = [name for name in trades | coverage if name == str(day or name) and name <= last]
    if not dates:
        return result
    audit = AuditLog(layout.audit, "", clock)
    with hold_lease(lake, clock) as lease:
        for name in sorted(dates):
            try:
                with temporary_folder(layout.scratch) as folder:
                    if name in coverage:
                        merge_lake_coverage(lease, name, folder / "coverage")
                    merged = merge_lake_date(lease, name, folder)
                if merged.done is not None:
                    _record(merged.done, result, audit, lake=url)
                delete_replaced(lease, merged)
            except LakeError as error:
                result.failed.append(str(error))
                break  # for the other dates, it would fail after the same time
            except FileNotFoundError as error:
                result.failed.append(
                    f"{error} Something else deletes files of {url}: run it again."
                )
            except StocktraceError as error:
                result.failed.append(str(error))
    return result


def _last_date(day: date | None, older_than: float, clock: Clock) -> str:
    """Return the last date that may be compacted."""
    now = utc_datetime(clock.wall())
    if day is not None and day >= now.date():
        raise UsageError(f"{day} has not ended (UTC): compact it from the next day on.")
    last = day or (now - timedelta(seconds=older_than)).date() - timedelta(days=1)
    return str(last)


def _record(
    done: CompactedDate, result: CompactionResult, audit: AuditLog, **facts: object
) -> None:
    result.done.append(done)
    sizes = {"before": done.size_before, "size": done.size}
    audit("compact", date=done.date, files=done.files, rows=done.rows, **sizes, **facts)


def _compact_date(layout: Layout, name: str, result: CompactionResult, audit: AuditLog) -> bool:
    """Compact a date; return whether its old folder is still to be deleted."""
    try:
        done = compact_date(layout, name)
    except StocktraceError as error:
        result.failed.append(str(error))
        return False
    if done is not None:
        _record(done, result, audit)
    return done is not None


def _finish_swaps(
    layout: Layout, dates: list[str], result: CompactionResult, *, wait: bool
) -> list[str]:
    """Delete the old folders of dates that readers had time to list; return the others."""
    rest = []
    for name in dates:
        try:
            if not finish_swap(layout, name, wait=wait):
                rest.append(name)
        except StocktraceError as error:
            result.failed.append(str(error))
    return rest


def _postponed_dates(layout: Layout, dates: list[str]) -> dict[str, tuple[str, list[str]]]:
    """Return which of ``dates`` cannot be compacted yet, with the reason and a crashed session.

    Only the reports of sessions with tapes of these dates are read.
    """
    postponed: dict[str, tuple[str, list[str]]] = {}
    plain = [WindowId.of_tape(path) for path in layout.plain_tapes()]
    for window in (*plain, *map(WindowId.parse, layout.all_segments())):
        reason = f"window {window.window} of {window.session} is not published"
        postponed[window.date] = reason, []
    windows = {*plain, *map(WindowId.of_tape, layout.archived_tapes())}
    sessions = {window.session for window in windows if window.date in dates}
    for session in sorted(sessions):
        if not is_finished(layout, session) and not is_in_use(layout, session):
            reason = f"session {session} crashed: run `stocktrace recover`"
            for window in windows:
                if window.session == session:
                    postponed[window.date] = reason, [session]
    return {name: postponed[name] for name in dates if name in postponed}
