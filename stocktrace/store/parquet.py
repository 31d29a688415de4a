"""One segment to one Parquet file, published only when it is whole (docs/storage.md).

temp name outside the dataset → write with page checksums → re-read with checksums → compare content
with the CSV → sync → rename → sync the folder → only then the CSV goes. Running it again changes
nothing; a file under the final name is believed only after it was read and compared, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stocktrace._version import __version__
from stocktrace.errors import ConversionError
from stocktrace.store import arrow_schema, checksum, files, footer, lock, outbox, partition
from stocktrace.store.footer import UNREADABLE
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import HEADER, parse_segment

#: As ``columns`` has them; readers of this module need no second one.
SCHEMA = arrow_schema.TRADE_SCHEMA
ContentHash = checksum.ContentHash
content_hash = checksum.content_hash
metadata = footer.read_footer
has_wrong_statistics = footer.has_wrong_statistics

# Under 64 Ki rows a group costs 4-15 % in size; more than this is more to read for one hour.
ROW_GROUP = 1 << 18
# pyarrow's own 20,000-row pages cost 2-4 %.
_PAGE_ROWS = 1 << 20
# The level of the measured knee: 9 gains 4 % in size for twice the time (docs/storage.md).
ZSTD_LEVEL = 3
# What pyarrow (26), polars (2.1) or DuckDB (2.0) may take for a number, a date, a time or a truth
# (TRUE is listed at Nasdaq) in the name of a partition.
_GUESSED = re.compile(r"[-.^]*\d.*|[-^]*(?:inf|infinity|nan|true|false)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A published file: ``rows`` trades of ``ticker`` in ``size`` bytes."""

    ticker: str
    path: Path
    rows: int
    size: int


def parquet_writer(sink: Path, level: int = ZSTD_LEVEL) -> pq.ParquetWriter:
    """A writer with the settings that were measured to be the smallest."""
    return pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        compression_level=level,
        use_dictionary=["price", "volume", "conditions"],
        column_encoding={
            "ts_event": "DELTA_BINARY_PACKED",
            "ts_recv": "DELTA_BINARY_PACKED",
        },
        max_rows_per_page=_PAGE_ROWS,
        write_page_checksum=True,
        store_schema=False,
    )


def read_csv(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a sealed segment, of ``SCHEMA``; every type is declared, nothing is guessed.

    Raises:
        ConversionError: it is torn, or not a segment of ours.
    """
    with path.open("rb") as file:
        header = file.readline()
        file.seek(0, os.SEEK_END)
        empty = file.tell() == len(header)
        if header != HEADER:
            raise ConversionError(f"{path} does not begin with the header of a segment.")
        file.seek(-1, os.SEEK_END)
        # A number that was cut still parses: a row counts only with its line feed.
        if file.read(1) != b"\n":
            raise ConversionError(f"{path} is torn: its last line has no end.")
    if not empty:
        yield from parse_segment(path, path)


def read_open_csv(path: Path) -> Iterator[pa.RecordBatch]:
    """The complete lines of a segment that may still be appended to, as ``read_csv`` gives them.

    Raises:
        ConversionError: it is not a segment of ours.
        FileNotFoundError: it is not there (any more).
    """
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1]
    if not HEADER.startswith(lines[: len(HEADER)]):
        raise ConversionError(f"{path} does not begin with the header of a segment.")
    if len(lines) > len(HEADER):
        yield from parse_segment(path, pa.BufferReader(lines))


def read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a published file, page checksums verified.

    Raises:
        ConversionError: it is damaged, or not a file of ours.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise ConversionError(f"{path} has other columns than ours: {file.schema_arrow}.")
            yield from file.iter_batches(batch_size=ROW_GROUP, use_threads=False)
    except UNREADABLE as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error


def publish_segment(layout: Layout, segment: Path, *, anew: bool = False) -> PublishedFile | None:
    """Publish a sealed segment; ``None`` if another process is at it or had done it.

    ``anew`` writes a file with the right rows, too: its footer may be wrong.

    Raises:
        ConversionError: what was written is not what was read; the segment stays.
    """
    part, ticker = WindowId.parse(segment), layout.ticker_of_csv(segment)
    try:
        source = segment.open("rb")
    except FileNotFoundError:
        return None
    with source:
        try:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not segment.exists():  # it went between the open and the lock
            return None
        final = layout.parquet(ticker, part)
        files.make_folder(final.parent)
        # A compaction has the date to itself while it puts a new folder in the ticker's place.
        with lock.lock_folder(final.parent.parent, exclusive=False):
            converted = _is_in_day_file(layout, ticker, segment, part)
            if converted is None:
                wanted = _publish(layout, ticker, segment, part, anew=anew)
                converted = PublishedFile(ticker, final, wanted.rows, final.stat().st_size)
                if layout.lake:
                    _add_to_outbox(layout, ticker, part)
        _delete_segment(layout, ticker, segment, part)
    return converted


def _add_to_outbox(layout: Layout, ticker: str, part: WindowId) -> None:
    """Before the CSV goes: what is to be sent is then on disk, whatever happens."""
    if (anchor := layout.anchor(part.date)).exists():
        outbox.add_to_outbox(layout, part.session, anchor)
    outbox.add_to_outbox(layout, part.session, layout.parquet(ticker, part))


def _delete_segment(layout: Layout, ticker: str, segment: Path, part: WindowId) -> None:
    """A published segment is a second copy: it goes, unless it was asked for."""
    if layout.csv_retention:
        kept = layout.kept_csv(ticker, part)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with files.disk_errors(kept):
            segment.replace(kept)
    else:
        segment.unlink()


def _is_in_day_file(
    layout: Layout, ticker: str, segment: Path, part: WindowId
) -> PublishedFile | None:
    """The file of the day, if it has the window of ``segment``.

    Raises:
        ConversionError: its rows there are other ones.
    """
    piece = partition.find_in_day_file(layout, ticker, part)
    if piece is None:
        return None
    found = content_hash(piece.read())
    if found.hexdigest() != content_hash(read_csv(segment)).hexdigest():
        raise ConversionError(f"{piece.path} holds other rows than {segment}.")
    return PublishedFile(ticker, piece.path, piece.rows, piece.size)


def _publish(
    layout: Layout, ticker: str, segment: Path, part: WindowId, *, anew: bool
) -> checksum.ContentHash:
    final = layout.parquet(ticker, part)
    if final.exists() and not anew:
        with contextlib.suppress(ConversionError):  # damaged: it is written anew
            wanted = content_hash(read_csv(segment))
            if content_hash(read_parquet(final)).hexdigest() == wanted.hexdigest():
                return wanted
    layout.converting.mkdir(parents=True, exist_ok=True)
    with files.locked_temporary(layout.converting / final.name) as temporary:
        wanted = _write_checked(read_csv(segment), temporary, part)
        found = content_hash(read_parquet(temporary))
        if found.hexdigest() != wanted.hexdigest():
            raise ConversionError(f"{temporary} does not hold the {wanted.rows} rows of {segment}.")
        _write_anchor(layout, ticker, part)
        files.publish_file(temporary, final)
    return wanted


def _write_anchor(layout: Layout, ticker: str, part: WindowId) -> None:
    """Keep readers that guess from taking tickers for numbers, dates or truths.

    They guess the type of a partition from all its values: ``7203`` and ``007`` alone would come
    back as 7203 and 7. Beside them stands a file without rows under a name that is no
    number, and no ticker.
    """
    anchor = layout.anchor(part.date)
    if _GUESSED.fullmatch(ticker) and not anchor.exists():
        files.make_folder(anchor.parent)
        # Under the session's name, so that its recovery knows it.
        with files.locked_temporary(layout.converting / f"{part.stem}.{anchor.name}") as temporary:
            pq.write_table(SCHEMA.empty_table(), temporary, store_schema=False)
            files.publish_file(temporary, anchor)


def _write_checked(
    rows: Iterator[pa.RecordBatch], path: Path, part: WindowId
) -> checksum.ContentHash:
    written = ContentHash()
    gathered: list[pa.RecordBatch] = []
    with files.disk_errors(path), parquet_writer(path) as parquet:
        for batch in rows:
            written.update(batch)
            gathered.append(batch)
            if sum(each.num_rows for each in gathered) >= ROW_GROUP:
                parquet.write_table(pa.Table.from_batches(gathered), ROW_GROUP)
                gathered = []
        if not written.rows:
            raise ConversionError("A segment without rows must not be: nothing is published.")
        if gathered:
            parquet.write_table(pa.Table.from_batches(gathered), ROW_GROUP)
        facts = {
            "session": part.session,
            "window": part.window,
            "content": written.hexdigest(),
            "version": __version__,
        }
        parquet.add_key_value_metadata({f"stocktrace.{key}": facts[key] for key in facts})
    return written
