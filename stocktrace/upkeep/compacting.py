"""Compaction of a data folder: every ticker's day that is over becomes one file.

A date is compacted when it is over (UTC) and nothing of it is still to come: no tape of it that is
not recorded whole, no segment that is not published, no dead session that has windows of it. What a
recovery publishes of it afterwards stands beside the day's file until the next compaction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import date, timedelta

from stocktrace.deadline import SYSTEM_CLOCK, Clock, utc
from stocktrace.errors import StocktraceError, UsageError
from stocktrace.record.recovery import dead_sessions, read_report
from stocktrace.store.audit import Audit
from stocktrace.store.compaction import Compacted, compact, finish
from stocktrace.store.exclusion import alone
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.store.partition import date_of, folders, ticker_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Compaction:
    """What came of it: days done, dates that wait and why, what failed, in words.

    ``dead`` are the sessions that are waited for and will do nothing before they are recovered.
    """

    done: list[Compacted] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def compact_days(
    layout: Layout,
    day: date | None = None,
    *,
    older_than: float = 0.0,
    clock: Clock = SYSTEM_CLOCK,
) -> Compaction:
    """Compact all dates that ended over ``older_than`` seconds ago, or just ``day``.

    Raises:
        UsageError: ``day`` is not over.
        StoreError: another process compacts or verifies.
    """
    now = utc(clock.wall())
    last = (now - timedelta(seconds=older_than)).date() - timedelta(days=1)
    if day is not None and day >= now.date():
        raise UsageError(f"{day} is not over (UTC): it can be compacted from tomorrow on.")
    result = Compaction()
    with alone(layout):
        audit = Audit(layout.audit, "", clock)
        _finish_all(layout, result)
        dead = _dead(layout)
        waiting = _unpublished(layout) | {
            name: f"session {session} died: run `stocktrace recover`"
            for name, session in dead.items()
        }
        for name in layout.dates():
            if name != str(day) if day is not None else name > last.isoformat():
                continue
            if name in waiting:
                result.waiting[name] = waiting[name]
                result.dead += [dead[name]] if name in dead else []
            else:
                _compact_date(layout, name, result, audit)
    return result


def _finish_all(layout: Layout, result: Compaction) -> None:
    """End what was begun by a compaction that died."""
    for staged in layout.staging():
        try:
            finish(layout, ticker_of(staged), date_of(staged))
        except StocktraceError as error:
            result.failed.append(str(error))


def _compact_date(layout: Layout, name: str, result: Compaction, audit: Audit) -> None:
    for folder in folders(layout, name):
        try:
            done = compact(layout, ticker_of(folder), name)
        except StocktraceError as error:
            result.failed.append(str(error))
            continue
        if done is not None:
            result.done.append(done)
            audit(
                "compact",
                date=name,
                ticker=done.ticker,
                files=done.files,
                rows=done.rows,
                before=done.before,
                size=done.size,
            )


def _dead(layout: Layout) -> dict[str, str]:
    """Dates of which a session that died has windows, and that session."""
    found: dict[str, str] = {}
    for session in dead_sessions(layout):
        report = read_report(layout, session)
        parts = [Part(session, window) for window in (report.windows if report else ())]
        for part in (*parts, *layout.session_tapes(session)):
            found[part.date] = session
    return found


def _unpublished(layout: Layout) -> dict[str, str]:
    """Dates of which something is not published, and what."""
    coming = [Part.of_tape(path) for path in layout.plain_tapes()]
    coming += [Part.parse(path) for path in layout.unpublished()]
    return {
        part.date: f"window {part.window} of {part.session} is not published" for part in coming
    }
