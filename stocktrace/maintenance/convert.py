"""Conversion of a data folder: every sealed segment that nobody is at becomes a Parquet file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import StocktraceError
from stocktrace.record.recovery import claim_session
from stocktrace.record.upload import upload_session, with_lake_of_report
from stocktrace.sessions.catalog import read_report
from stocktrace.store import conversion
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId


@dataclass(slots=True)
class ConversionResult:
    """What came of it: files with so many rows in all, and what failed, in words."""

    files: int = 0
    rows: int = 0
    failed: list[str] = field(default_factory=list)


def convert_segments(layout: Layout) -> ConversionResult:
    """Publish every sealed segment, and send what waits for the lake; again changes nothing.

    What belongs to a session that is alive, or being recovered, is left to it.
    """
    done = ConversionResult()
    sessions: dict[str, list[Path]] = {}
    for segment in layout.all_sealed_segments():
        try:
            sessions.setdefault(WindowId.parse(segment).session, []).append(segment)
        except StocktraceError as error:
            done.failed.append(str(error))
    for folder in layout.root.glob("outbox/*"):
        sessions.setdefault(folder.name, [])
    for session, segments in sessions.items():
        with claim_session(layout, session) as ours:
            if ours:  # whoever has it counts what it publishes
                _convert(layout, session, segments, done)
    return done


def _convert(layout: Layout, session: str, segments: list[Path], done: ConversionResult) -> None:
    report = read_report(layout, session)
    target = layout if report is None else with_lake_of_report(layout, report)
    for segment in segments:
        try:
            converted = conversion.publish_segment(target, segment)
        except StocktraceError as error:
            done.failed.append(str(error))
            continue
        if converted is not None:
            done.files += 1
            done.rows += converted.rows
    if report is not None and report.state != "running":  # else its report comes with its recovery
        upload_session(target, report)
        done.failed += [report.upload_error] if report.upload_error else []
