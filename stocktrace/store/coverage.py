"""Coverage on disk: ``coverage/date=<UTC date>/<session>.parquet``, one row an interval.

Columns: ``session``, ``symbol``, ``start`` and ``end`` (UTC, us; end exclusive), ``state``
(``listening`` or ``gap``), ``reason`` (of a gap; of a stretch of a merge, the sessions that
listened). An interval over midnight is cut there, so that a day can be read by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.intervals import CoverageInterval
from stocktrace.store import files, outbox
from stocktrace.store.layout import Layout
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
    ]
)


def read_coverage_file(path: str | Path, files: pafs.FileSystem | None = None) -> pa.Table:
    """The rows of one file, page checksums verified.

    Raises:
        ConversionError: it is damaged, or not a file of ours.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, filesystem=files) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error
    if not table.schema.equals(COVERAGE_SCHEMA):
        raise ConversionError(f"{path} has other columns than ours: {table.schema}.")
    return table


def write_coverage(
    layout: Layout, session: str, intervals: Iterable[CoverageInterval]
) -> list[Path]:
    """Publish the coverage of a session, a file a day; writing it again replaces it.

    Returns:
        The files.
    """
    written: list[Path] = []
    days: dict[str, list[CoverageInterval]] = {}
    for interval in intervals:
        for piece in interval.split_at_midnight():
            days.setdefault(utc_date(piece.start), []).append(piece)
    for day, pieces in days.items():
        path = layout.coverage(session, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        layout.converting.mkdir(parents=True, exist_ok=True)
        with files.locked_temporary(layout.converting / f"{session}-{day}.parquet") as temporary:
            with files.disk_errors(temporary):
                pq.write_table(
                    _table(session, pieces), temporary, compression="zstd", write_page_checksum=True
                )
            files.publish_file(temporary, path)
        if layout.lake:
            outbox.add_to_outbox(layout, session, path)
        written.append(path)
    return written


def _table(session: str, pieces: list[CoverageInterval]) -> pa.Table:
    pieces = sorted(pieces, key=lambda piece: (piece.ticker, piece.start))
    return pa.table(
        [
            pa.array([session] * len(pieces), pa.string()),
            pa.array([piece.ticker for piece in pieces], pa.string()),
            pa.array([piece.start // NS_PER_US for piece in pieces], pa.timestamp("us", "UTC")),
            pa.array([piece.end // NS_PER_US for piece in pieces], pa.timestamp("us", "UTC")),
            pa.array(["gap" if piece.reason else "listening" for piece in pieces], pa.string()),
            pa.array([piece.reason or piece.sources for piece in pieces], pa.string()),
        ],
        schema=COVERAGE_SCHEMA,
    )
