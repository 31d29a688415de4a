"""Convert one sealed segment to one Parquet file, and publish it only when it is whole.

1. Write the file outside the dataset, with page checksums.
2. Read it back with checksums and compare its content with the segment's.
3. Sync it, rename it into the dataset, sync the folder.
4. Only then delete the segment.

Doing it again changes nothing. A file that already has the final name is trusted only after it was
read and compared, too (docs/storage.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stocktrace.errors import ConversionError
from stocktrace.store import files, lock, outbox, partition
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.checksum import ContentHash, content_hash
from stocktrace.store.footer import add_footer
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.parquet import ROW_GROUP, publish_table, read_trade_file, trade_writer
from stocktrace.store.segments import read_segment

# What pyarrow (26), polars (2.1) or DuckDB (2.0) may take for a number, a date, a time or a boolean
# (TRUE is listed at Nasdaq) in the name of a partition.
_GUESSED_TYPE = re.compile(r"[-.^]*\d.*|[-^]*(?:inf|infinity|nan|true|false)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A published file: ``rows`` trades of ``ticker`` in ``size`` bytes."""

    ticker: str
    path: Path
    rows: int
    size: int


def publish_segment(
    layout: Layout, segment: Path, *, overwrite: bool = False
) -> PublishedFile | None:
    """Publish a sealed segment; ``None`` if another process is publishing it or has done so.

    ``overwrite`` writes the file again even if its rows are right: its footer may be wrong.

    Raises:
        ConversionError: The written rows are not those of the segment, which stays.
    """
    window, ticker = WindowId.parse(segment), layout.ticker_of_csv(segment)
    try:
        source = segment.open("rb")
    except FileNotFoundError:
        return None
    with source:
        try:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not segment.exists():  # it was published between the open and the lock
            return None
        final = layout.parquet(ticker, window)
        files.make_folder(final.parent)
        # A compaction locks the date while it replaces the folder of the ticker.
        with lock.lock_folder(final.parent.parent, exclusive=False):
            published = _find_in_day_file(layout, ticker, segment, window)
            if published is None:
                content = _publish(layout, ticker, segment, window, overwrite=overwrite)
                published = PublishedFile(ticker, final, content.rows, final.stat().st_size)
                if layout.lake:  # before the segment is deleted: one of both survives a crash
                    for path in filter(Path.exists, (layout.anchor(window.date), final)):
                        outbox.add_to_outbox(layout, window.session, path)
        _delete_segment(layout, ticker, segment, window)
    return published


def _delete_segment(layout: Layout, ticker: str, segment: Path, window: WindowId) -> None:
    """Delete a published segment, or move it away if CSV is kept."""
    if layout.keeps_csv:
        target = layout.kept_csv(ticker, window)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.disk_errors(target):
            segment.replace(target)
    else:
        segment.unlink()


def _find_in_day_file(
    layout: Layout, ticker: str, segment: Path, window: WindowId
) -> PublishedFile | None:
    """Return the compacted file of the day if it has the window of ``segment``."""
    window_rows = partition.find_in_day_file(layout, ticker, window)
    if window_rows is None:
        return None
    published = content_hash(window_rows.read())
    if published.hexdigest() != content_hash(read_segment(segment)).hexdigest():
        raise ConversionError(f"{window_rows.path} holds other rows than {segment}.")
    return PublishedFile(ticker, window_rows.path, window_rows.rows, window_rows.size)


def _publish(
    layout: Layout, ticker: str, segment: Path, window: WindowId, *, overwrite: bool
) -> ContentHash:
    final = layout.parquet(ticker, window)
    if final.exists() and not overwrite:
        with contextlib.suppress(ConversionError):  # damaged: it is written again
            expected = content_hash(read_segment(segment))
            if content_hash(read_trade_file(final)).hexdigest() == expected.hexdigest():
                return expected
    layout.converting.mkdir(parents=True, exist_ok=True)
    with files.locked_temporary(layout.converting / final.name) as temporary:
        expected = _write_trades(read_segment(segment), temporary, window)
        written = content_hash(read_trade_file(temporary))
        if written.hexdigest() != expected.hexdigest():
            raise ConversionError(
                f"{temporary} does not hold the {expected.rows} rows of {segment}."
            )
        _publish_anchor(layout, ticker, window)
        files.publish_file(temporary, final)
    return expected


def _publish_anchor(layout: Layout, ticker: str, window: WindowId) -> None:
    """Keep readers that guess types from taking tickers for numbers, dates or booleans."""
    # They guess the type of a partition from all its values: ``7203`` and ``007`` alone would be
    # read as 7203 and 7. The anchor's partition is neither a number nor a ticker.
    anchor = layout.anchor(window.date)
    if _GUESSED_TYPE.fullmatch(ticker) and not anchor.exists():
        # The temporary file has the session's name so that its recovery finds it.
        temporary = layout.converting / f"{window.stem}.{anchor.name}"
        publish_table(TRADE_SCHEMA.empty_table(), anchor, temporary, store_schema=False)


def _write_trades(rows: Iterator[pa.RecordBatch], path: Path, window: WindowId) -> ContentHash:
    content = ContentHash()
    batches: list[pa.RecordBatch] = []
    with files.disk_errors(path), trade_writer(path) as writer:
        for batch in rows:
            content.update(batch)
            batches.append(batch)
            if sum(len(each) for each in batches) >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(batches), ROW_GROUP)
                batches = []
        if not content.rows:
            raise ConversionError("The segment has no rows: nothing is published.")
        if batches:
            writer.write_table(pa.Table.from_batches(batches), ROW_GROUP)
        add_footer(
            writer, session=window.session, window=window.window, content=content.hexdigest()
        )
    return content
