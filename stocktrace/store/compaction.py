"""The many files of a ticker's day become one, in a step that no reader sees half of.

The file is built in ``compacting/date=…/symbol=…``, where no reader looks, from the windows' rows
in order (``partition``), each compared with the hash that its footer told. It is read again and
compared, synced, and then the two *folders* change places. Whoever lists the folder finds all of
the old files or the new one; a name is never used for two contents (``day-<n>``), so that whoever
had listed the old files reads them or misses them, but never mixes them with the new one. What
then stands in ``compacting`` is the old folder, and goes.

Killed anywhere, the next run finds a folder in ``compacting`` and ends what was begun: nothing in
it is deleted before its windows are found in the dataset.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from stocktrace._version import __version__
from stocktrace.errors import ConversionError, StocktraceError, StoreError
from stocktrace.store import files, footer, lock, parquet
from stocktrace.store.checksum import ContentHash, content_hash
from stocktrace.store.files import swap_folders
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_number, is_day_file
from stocktrace.store.partition import (
    WindowRowsReader,
    files_in_order,
    list_window_rows,
    window_rows_in,
)
from stocktrace.store.row_ranges import RowRangeReader

# 3 % smaller than level 9, for 2.2 times the time, 1.8 µs a trade; once a day, off the capture's
# hours (docs/storage.md).
COMPACTED_ZSTD_LEVEL = 15
# Much smaller than a window's: for 3 % more bytes, readers pass over the groups whose times do not
# fit, and an hour of one ticker costs that hour (docs/reading.md).
COMPACTED_ROW_GROUP = 1 << 15


@dataclass(frozen=True, slots=True)
class CompactedDay:
    """A ticker's day that is one file now, of ``rows`` trades that had been ``files`` files."""

    ticker: str
    date: str
    path: Path
    files: int
    rows: int
    files_before: int
    size: int


@dataclass(frozen=True, slots=True)
class CompactionSource:
    """Where the rows of a window are had from, and their hash."""

    part: WindowId
    rows: Callable[[], Iterator[pa.RecordBatch]]
    content: str


def compact_day(layout: Layout, ticker: str, date: str) -> CompactedDay | None:
    """Make one file of a ticker's day; ``None`` if it is one already.

    The caller holds ``layout.compaction``, and nobody records that day any more.

    Raises:
        ConversionError: a file is damaged; nothing was changed.
    """
    finish_swap(layout, ticker, date)
    live = layout.partition(ticker, date)
    paths = files_in_order(live)
    if not paths or (len(paths) == 1 and is_day_file(paths[0])):
        return None
    held = list_window_rows(live)
    for one, following in pairwise(held):
        if one.part == following.part:
            raise ConversionError(f"{live} has {one.part.stem} twice: run `stocktrace verify`.")
    with contextlib.closing(WindowRowsReader()) as readers:
        sources = [
            CompactionSource(each.part, partial(readers.rows, each), each.content) for each in held
        ]
        return replace_day(layout, ticker, date, sources)


def replace_day(
    layout: Layout, ticker: str, date: str, sources: Sequence[CompactionSource]
) -> CompactedDay | None:
    """Put one file with the rows of ``sources`` in the place of all that a ticker's day has.

    ``None`` if the files there changed meanwhile: it is for the next time.
    """
    live, staged = layout.partition(ticker, date), layout.compaction_staging(ticker, date)
    old = _swap_state(live)
    path = staged / f"day-{_next_day_number(live) + 1:05}.parquet"
    try:
        with files.disk_errors(path):
            staged.mkdir(parents=True)
            wanted = _write(sources, path)
            _check_written(path, wanted)
            files.sync_file(path)
            files.sync_file(staged)
            # Conversions share the folder of the date: while it is ours alone, no file is on its
            # way there, and none can come between the look and the exchange.
            with lock.lock_folder(live.parent, exclusive=True):
                same = _swap_state(live) == old
                if same:
                    swap_folders(staged, live)
                    files.sync_file(live.parent)
                    files.sync_file(staged.parent)
    except BaseException:
        with contextlib.suppress(StocktraceError, OSError):  # else the next run does it
            finish_swap(layout, ticker, date)
        raise
    finish_swap(layout, ticker, date)
    if not same:
        return None
    final = live / path.name
    rows = sum(content.rows for content in wanted.values())
    before = sum(size for _, size, _ in old.values())
    return CompactedDay(ticker, date, final, len(old), rows, before, final.stat().st_size)


def finish_swap(layout: Layout, ticker: str, date: str) -> bool:
    """Remove what a compaction left in ``compacting``; whether there was something.

    It is a new folder that never took its place, or the old one. The old one goes only when the
    dataset has all windows that it tells of.

    Raises:
        StoreError: the dataset lacks one.
    """
    staged, live = layout.compaction_staging(ticker, date), layout.partition(ticker, date)
    found = staged.exists()
    if found:
        if _next_day_number(staged) <= _next_day_number(live):
            _check_replaced(staged, live)
        with files.disk_errors(staged):
            shutil.rmtree(staged)
    with contextlib.suppress(OSError):  # other tickers of the date stand there, or none ever did
        staged.parent.rmdir()
    return found


def _check_replaced(old: Path, live: Path) -> None:
    held = {piece.part for piece in list_window_rows(live)}
    for path in files_in_order(old):
        try:
            parts = [piece.part for piece in window_rows_in(path)]
        except ConversionError:
            continue  # compaction stops at such a file: only what mended it took its place
        for part in parts:
            if part not in held:
                raise StoreError(f"{path} has {part.stem}, which {live} has not: put it there.")


def _next_day_number(folder: Path) -> int:
    """How often the day had been compacted when ``folder`` was made."""
    return max(
        (day_number(path) for path in files_in_order(folder) if is_day_file(path)), default=0
    )


def _swap_state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What there is in a folder: each name with what changes when its file is another one.

    Raises:
        StoreError: something in it is not ours, and would go with the folder.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".parquet":
            raise StoreError(f"{path} is no file of stocktrace: move it out of the data folder.")
        facts = path.stat()
        found[path.name] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


def _write(sources: Iterable[CompactionSource], path: Path) -> dict[WindowId, ContentHash]:
    """Write the rows of ``sources``; gives the hash of each window.

    Raises:
        ConversionError: the rows of one are not those that it told of.
    """
    contents: dict[WindowId, ContentHash] = {}
    whole = ContentHash()

    def rows() -> Iterator[pa.RecordBatch]:
        for source in sources:
            content = contents[source.part] = ContentHash()
            for batch in source.rows():
                content.update(batch)
                whole.update(batch)
                yield batch
            if content.hexdigest() != source.content:
                raise ConversionError(
                    f"The rows of {source.part.stem} are not those that the footer of its file "
                    "tells of: run `stocktrace verify --repair`."
                )

    with parquet.parquet_writer(path, COMPACTED_ZSTD_LEVEL) as sink:
        for table in _row_groups(rows()):
            sink.write_table(table, COMPACTED_ROW_GROUP)
        parts = [(part, each.rows, each.hexdigest()) for part, each in contents.items()]
        facts = {"parts": footer.format_windows(parts), "content": whole.hexdigest()}
        facts["version"] = __version__
        sink.add_key_value_metadata({f"stocktrace.{key}": facts[key] for key in facts})
    return contents


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of ``batches`` as tables of ``ROW_GROUP`` rows; the last one has what is left."""
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        gathered.append(batch)
        rows += batch.num_rows
        while rows >= COMPACTED_ROW_GROUP:
            table = pa.Table.from_batches(gathered)
            yield table.slice(0, COMPACTED_ROW_GROUP)
            gathered = table.slice(COMPACTED_ROW_GROUP).to_batches()
            rows -= COMPACTED_ROW_GROUP
    if rows:
        yield pa.Table.from_batches(gathered)


def _check_written(path: Path, wanted: dict[WindowId, ContentHash]) -> None:
    """Read a file again and compare it, window by window, with what was to be written."""
    with RowRangeReader(path) as file:
        found = {
            piece.part: content_hash(file.rows(piece.offset, piece.rows))
            for piece in window_rows_in(path)
        }
    if list(found) != list(wanted) or any(
        found[part].hexdigest() != wanted[part].hexdigest() for part in wanted
    ):
        raise ConversionError(f"{path} does not hold the rows that were written.")
