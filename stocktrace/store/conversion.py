"""Convert the sealed segments of a window to one Parquet file; publish it only when it is whole.

1. Write the file outside the dataset, with page checksums: all tickers, sorted.
2. Read it back with checksums and compare its content with that of the segments.
3. Sync it, rename it into the dataset, sync the folder.
4. Only then delete the segments.

Doing it again changes nothing. Segments that are left of a window that is published are deleted
only after they were compared with its rows (docs/storage.md).

Only what is kept is synced. Segments are not: the caller archives the tape after this, and until
then they can be rebuilt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stocktrace.errors import ConversionError
from stocktrace.store import files, lock, outbox
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.checksum import Content, ContentHash, hash_tables
from stocktrace.store.dataset import PublishedRows, find_published, hash_windows
from stocktrace.store.files import OnProgress
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import read_segments
from stocktrace.store.trade_file import WINDOW_FORMAT, count_tickers, write_trade_files

_SESSION, _NUMBER = (FILE_SCHEMA.field(name) for name in ("session", "window_number"))
# A line of CSV, about.
_ROW_BYTES = 80


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A published file of ``size`` bytes; ``rows`` are the trades of each ticker."""

    path: Path
    rows: dict[str, int]
    size: int


def convert_window(
    layout: Layout,
    window: WindowId,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> PublishedFile | None:
    """Publish the sealed segments of a window; return ``None`` if it has no segment.

    The caller keeps others from publishing the session (``lock.publish_lock``). ``overwrite``
    writes the file again even if the window is published.

    Raises:
        ConversionError: The written rows are not those of the segments, which stay.
    """
    segments = {layout.ticker_of_csv(path): path for path in layout.sealed_segments(window)}
    if not segments:
        return None
    final = layout.window_file(window)
    files.make_folder(final.parent)
    # A compaction locks the dataset while it replaces the folder of a date.
    with lock.lock_folder(layout.dataset, exclusive=False):
        published = None if overwrite else find_published(layout, window)
        if published is None:
            rows = _publish(layout, window, segments, on_progress)
        else:
            rows = compare_segments(published, segments)
            final = published.paths[0]
        size = final.stat().st_size
        if layout.lake:  # before the segments are deleted: one of both survives a crash
            outbox.add_to_outbox(layout, window.session, final)
    files.do_at_once(lambda path: _delete_segment(layout, path, window), segments.values())
    return PublishedFile(final, rows, size)


def _delete_segment(layout: Layout, segment: Path, window: WindowId) -> None:
    """Delete a published segment, or sync it and move it away if CSV is kept."""
    if layout.keeps_csv:
        files.sync_file(segment)
        target = layout.kept_csv(layout.ticker_of_csv(segment), window)
        files.make_folder(target.parent)
        with files.disk_errors(target):
            segment.replace(target)
    else:
        segment.unlink(missing_ok=True)


def _publish(
    layout: Layout, window: WindowId, segments: Mapping[str, Path], on_progress: OnProgress
) -> dict[str, int]:
    """Write, check and publish the file of a window; return the trades of each ticker."""
    final = layout.window_file(window)
    layout.converting.mkdir(parents=True, exist_ok=True)
    tickers = sorted(segments)
    paths = [segments[ticker] for ticker in tickers]

    def counted_paths() -> Iterator[Path]:
        for done, path in enumerate(paths, 1):
            yield path
            on_progress(done, len(paths))

    about = sum(path.stat().st_size for path in paths) // _ROW_BYTES
    with files.locked_temporary(layout.converting / final.name) as temporary:
        rows, expected = write_window_file(temporary, window, read_segments(counted_paths()), about)
        if list(rows) != tickers:
            raise ConversionError(
                f"A segment of {window.stem} has rows of another ticker, or none."
            )
        if hash_windows([temporary]) != {window: expected}:
            raise ConversionError(
                f"{temporary} does not hold the {expected.rows} rows of {window.stem}."
            )
        files.publish_file(temporary, final)
    return rows


def write_window_file(
    path: Path, window: WindowId, tables: Iterable[pa.Table], rows: int
) -> tuple[dict[str, int], Content]:
    """Write the rows of a window (``TRADE_SCHEMA``, sorted by ticker); about ``rows``.

    Returns the trades of each ticker, in the order of the file, and the content.
    """
    content, counts = ContentHash(), Counter[str]()

    def add_columns() -> Iterator[pa.Table]:
        for table in tables:
            for batch in table.to_batches():
                content.update(batch)
            counts.update(count_tickers(table))
            yield (
                table
                .append_column(_SESSION, pa.repeat(window.session, len(table)))
                .append_column(_NUMBER, pa.repeat(pa.scalar(window.number, pa.int32()), len(table)))
            )  # fmt: skip

    def windows() -> dict[WindowId, Content]:
        return {window: content.content()}

    with files.disk_errors(path):
        write_trade_files([path], add_columns(), windows, rows=rows, form=WINDOW_FORMAT)
    return dict(counts), windows()[window]


def compare_segments(published: PublishedRows, segments: Mapping[str, Path]) -> dict[str, int]:
    """Compare the segments of tickers with their published rows; return the trades of all tickers.

    Raises:
        ConversionError: They differ.
    """
    tickers = sorted(segments)
    wanted = hash_tables(read_segments(segments[ticker] for ticker in tickers))
    if hash_tables(published.read(tickers)) != wanted:
        raise ConversionError(
            f"{published.paths[0]} holds other rows of {published.window.stem} than its segments."
        )
    return published.count_trades()
