"""Conversion of a data folder: publish every recorded window that no other process publishes."""

from __future__ import annotations

from operator import attrgetter

from stocktrace.errors import StocktraceError
from stocktrace.record.publish import upload_session, with_lake_of_report
from stocktrace.record.recovery import (
    ConversionResult,
    claim_session,
    is_recorded_completely,
)
from stocktrace.sessions.catalog import read_report
from stocktrace.store import conversion, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId


def convert_segments(layout: Layout) -> ConversionResult:
    """Publish the sealed segments and send pending files to the lake; repeating changes nothing.

    Segments of a session that is running or being recovered are left to that process, and those of
    a window that crashed before all were sealed to `stocktrace recover`.
    """
    result = ConversionResult()
    sessions: dict[str, set[WindowId]] = {}
    for segment in layout.sealed_segments():
        try:
            window = WindowId.parse(segment)
            sessions.setdefault(window.session, set()).add(window)
        except StocktraceError as error:
            result.failed.append(str(error))
    for folder in layout.root.glob("outbox/*"):
        sessions.setdefault(folder.name, set())
    for session, windows in sessions.items():
        with claim_session(layout, session) as ours:
            if ours:  # the process that holds the session counts what it publishes
                _convert(layout, session, windows, result)
    return result


def _convert(
    layout: Layout, session: str, windows: set[WindowId], result: ConversionResult
) -> None:
    report = read_report(layout, session)
    target = layout if report is None else with_lake_of_report(layout, report)
    for window in sorted(windows, key=attrgetter("number")):
        if not is_recorded_completely(layout, window):
            result.failed.append(
                f"Session {session} crashed before its window {window.window} was recorded "
                "completely: run `stocktrace recover`."
            )
            continue
        try:
            with lock.publish_lock(layout, session):
                converted = conversion.convert_window(target, window)
        except StocktraceError as error:
            result.failed.append(str(error))
            continue
        if converted is not None:
            result.files += 1
            result.rows += sum(converted.rows.values())
    if report is not None and report.state != "running":  # a recovery writes the other reports
        upload_session(target, report)
        result.failed += [report.upload_error] if report.upload_error else []
