"""Coverage on disk: ``coverage/date=<UTC date>/<session>.parquet``, one row an interval.

- ``session``, ``symbol``
- ``start``, ``end``: UTC, us; the end is exclusive. An interval over midnight is cut there, so that
  a day can be read by itself.
- ``state``: ``listening`` or ``gap``.
- ``reason``: of a gap, otherwise empty.
- ``sources``: in a merge, the sessions that listened, otherwise empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from stocktrace.intervals import CoverageInterval
from stocktrace.store import outbox
from stocktrace.store.layout import Layout
from stocktrace.store.parquet import publish_table, read_table
from stocktrace.store.window import utc_date
from stocktrace.units import NS_PER_US

COVERAGE_SCHEMA = pa.schema(
    [
        pa.field("session", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("end", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("sources", pa.string(), nullable=False),
    ]
)


def read_coverage_file(path: str | Path, filesystem: pafs.FileSystem | None = None) -> pa.Table:
    """Read one file; the errors are those of ``read_table``."""
    return read_table(path, COVERAGE_SCHEMA, filesystem)


def write_coverage(
    layout: Layout, session: str, intervals: Iterable[CoverageInterval]
) -> list[Path]:
    """Publish the coverage of a session, one file a day, and return the files.

    Files that exist are replaced.
    """
    paths: list[Path] = []
    days: dict[str, list[CoverageInterval]] = {}
    for interval in intervals:
        for piece in interval.split_at_midnight():
            days.setdefault(utc_date(piece.start), []).append(piece)
    for day, pieces in days.items():
        path = layout.coverage(session, day)
        publish_table(_table(session, pieces), path, layout.converting / f"{session}-{day}.parquet")
        if layout.lake:
            outbox.add_to_outbox(layout, session, path)
        paths.append(path)
    return paths


def _table(session: str, intervals: list[CoverageInterval]) -> pa.Table:
    intervals = sorted(intervals, key=lambda each: (each.ticker, each.start))
    columns = {
        "session": [session] * len(intervals),
        "symbol": [each.ticker for each in intervals],
        "start": [each.start // NS_PER_US for each in intervals],
        "end": [each.end // NS_PER_US for each in intervals],
        "state": ["gap" if each.reason else "listening" for each in intervals],
        "reason": [each.reason for each in intervals],
        "sources": [each.sources for each in intervals],
    }
    return pa.table(columns, schema=COVERAGE_SCHEMA)
