"""Coverage on disk: ``coverage/date=<UTC date>/<session>.parquet``, one row an interval.

- ``session``, ``symbol``
- ``start``, ``end``: UTC, us; the end is exclusive. An interval over midnight is cut there, so that
  a day can be read by itself.
- ``state``: ``listening`` or ``gap``.
- ``reason``: of a gap, otherwise empty.
- ``sources``: in a merge, the sessions that listened, otherwise empty.
- ``lag_s``: how far the feed was behind (s): at most while it listened, and at the loss before a
  gap, which begins that much before the last receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from stocktrace.intervals import CoverageInterval, CoverageSpan
from stocktrace.store import outbox
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_day_file, utc_date
from stocktrace.store.parquet import SourceFile, open_parquet, publish_table, read_table
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
        pa.field("lag_s", pa.float64(), nullable=False),
    ]
)

_TABLE_SCHEMA = pa.schema(
    field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.type == pa.string() else field
    for field in COVERAGE_SCHEMA
)


def read_coverage_file(
    path: str | Path, filesystem: pafs.FileSystem | None = None, size: int | None = None
) -> pa.Table:
    """Read one file; the errors are those of ``read_table``."""
    return read_table(path, COVERAGE_SCHEMA, filesystem, size)


def read_coverage_files(
    files: Sequence[SourceFile], filesystem: pafs.FileSystem
) -> Iterator[pa.Table]:
    """Yield the rows of each file.

    A compacted file of a date leaves out the sessions that also have a file of their own: it may be
    newer.

    Raises:
        ConversionError: A file is damaged.
        FileNotFoundError: A compaction has deleted a file in the meantime: list them again.
    """
    paths = [Path(file.path) for file in files]
    for path, file in zip(paths, files, strict=True):
        with open_parquet(path, COVERAGE_SCHEMA, filesystem, size=file.size) as parquet:
            table = parquet.read(use_threads=False)
        if is_day_file(path):
            own = [each.stem for each in paths if each.parent == path.parent]
            table = table.filter(~pc.field("session").isin(pa.array(own, pa.string())))
        yield table


def write_coverage(
    layout: Layout, session: str, intervals: Iterable[CoverageInterval | CoverageSpan]
) -> list[Path]:
    """Publish the coverage of a session, one file a day, and return the files.

    Files that exist are replaced.
    """
    paths: list[Path] = []
    days: dict[str, list[CoverageInterval | CoverageSpan]] = {}
    for interval in intervals:
        for piece in interval.split_at_midnight():
            days.setdefault(utc_date(piece.start), []).append(piece)
    for day, pieces in days.items():
        path = layout.coverage(session, day)
        temporary = layout.converting / f"{session}-{day}.parquet"
        publish_table(_table(session, pieces), path, temporary, store_schema=False)
        if layout.lake:
            outbox.add_to_outbox(layout, session, path)
        paths.append(path)
    return paths


def _table(session: str, pieces: Sequence[CoverageInterval | CoverageSpan]) -> pa.Table:
    """Return a row for each ticker of each piece, by ticker and time; texts are dictionaries."""
    groups = [piece.tickers for piece in pieces]
    names = sorted({ticker for group in set(groups) for ticker in group})
    numbers = {name: number for number, name in enumerate(names)}
    codes = {group: np.array([numbers[ticker] for ticker in group]) for group in set(groups)}
    symbol = np.concatenate([codes[group] for group in groups])
    piece = np.repeat(np.arange(len(pieces)), list(map(len, groups)))
    start = np.array([each.start for each in pieces], np.int64)
    end = np.array([each.end for each in pieces], np.int64)
    order = np.lexsort((start[piece], symbol))
    symbol, piece = symbol[order], piece[order]

    def texts(values: Iterable[str]) -> pa.DictionaryArray:
        encoded = pa.array(values, pa.string()).dictionary_encode()
        return encoded.take(pa.array(piece))

    columns = {
        "session": texts([session] * len(pieces)),
        "symbol": pa.DictionaryArray.from_arrays(symbol.astype(np.int32), names),
        "start": start[piece] // NS_PER_US,
        "end": end[piece] // NS_PER_US,
        "state": texts("gap" if each.reason else "listening" for each in pieces),
        "reason": texts(each.reason for each in pieces),
        "sources": texts(each.sources for each in pieces),
        "lag_s": np.array([each.lag_s for each in pieces])[piece],
    }
    return pa.table(columns, schema=_TABLE_SCHEMA)
