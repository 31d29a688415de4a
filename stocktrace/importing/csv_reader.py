"""Reads third-party CSV files without guessing and without losing a row.

Values stay text until the schema checks them; times become integers exactly, never by way of a
float. Two kinds of lines are kept as they are: a row with too many or too few fields, and what
follows the last line feed, because a number that was cut off still parses.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from stocktrace.errors import StoreError
from stocktrace.store.files import other_kind
from stocktrace.units import NS_PER_MS, NS_PER_SECOND, NS_PER_US

ENDINGS = (".csv", ".csv.gz")
#: CSV that cannot be read. In a folder it is reported, so that it is not overlooked.
UNREAD_ENDINGS = (".csv.bz2", ".csv.lz4", ".csv.xz", ".csv.zip", ".csv.zst")
# The first bytes of files that are not CSV in UTF-8. UTF-32 is first: it begins like UTF-16.
_ENCODINGS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_COMPRESSIONS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_BLOCK = 1 << 20
# Longer than any line of trades: a file with a longer line is not CSV.
_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceContents:
    """A hash and the size of a file, decompressed."""

    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> SourceContents:
        """Read a whole file.

        Raises:
            StoreError: it is not a file, cannot be read to the end, or is not CSV in UTF-8.
        """
        digest, size = _hash(), 0
        try:
            if kind := other_kind(path):
                raise StoreError(f"{path} is {kind}, not a CSV file.")
            with _open_source(path) as file:
                while chunk := file.read(_BLOCK):
                    if not size:
                        _refuse_other_formats(path, chunk)
                    digest.update(chunk)
                    size += len(chunk)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(f"{path} cannot be read to the end: {_message(error)}.") from error
        return cls(digest.hexdigest(), size)


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """The format of a file; ``names`` are set if it has no header line."""

    delimiter: str = ","
    names: Sequence[str] = ()
    unit: str = "iso"
    zone: str = "UTC"


@dataclass(slots=True)
class CsvBlock:
    """Consecutive rows: ``texts`` by our column names, all of one length.

    ``event`` and ``received`` are epoch ns, or ``None`` where the text is not a time. ``odd`` has
    lines that are not rows, each with the reason.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    event: list[int | None] = field(default_factory=list)
    received: list[int | None] = field(default_factory=list)
    odd: list[tuple[str, str]] = field(default_factory=list)


def read_column_names(path: Path, form: CsvFormat) -> list[str]:
    """Return the column names of a file, an empty list if it is empty.

    Raises:
        StoreError: it cannot be read, or its first line is not CSV.
    """
    if form.names:
        return list(form.names)
    try:
        with _open_source(path) as file:
            line = file.readline(_LINE).decode("utf-8-sig", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read: {_message(error)}.") from error
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=form.delimiter), [])
    except csv.Error as error:
        raise StoreError(f"{path} is not CSV: its first line cannot be read ({error}).") from error


def read_blocks(
    path: Path, form: CsvFormat, columns: dict[str, str], contents: SourceContents
) -> Iterator[CsvBlock]:
    """Read the rows of a file; ``columns`` maps our column names to those of the file.

    Raises:
        StoreError: it is not CSV, or differs from ``contents``.
    """
    odd: list[tuple[str, str]] = []

    def skip(row: Any) -> str:
        fields = f"it has {row.actual_columns} fields instead of {row.expected_columns}"
        odd.append((row.text or "", fields))
        return "skip"

    theirs = list(dict.fromkeys(columns.values()))
    parsing = pcsv.ParseOptions(delimiter=form.delimiter, invalid_row_handler=skip)
    converting = pcsv.ConvertOptions(
        column_types=dict.fromkeys(theirs, pa.binary()),
        include_columns=theirs,
        null_values=[],
        strings_can_be_null=False,
    )
    digest = _hash()
    with _open_source(path) as file:
        # Each block is parsed with the header line before it. A file with only that has no rows.
        first = b"" if form.names else file.readline(_LINE)
        digest.update(first)
        lines, rest = b"", b""
        while chunk := file.read(_BLOCK):
            digest.update(chunk)
            lines, _, rest = (rest + chunk).rpartition(b"\n")
            if max(len(first), len(rest)) >= _LINE:
                raise StoreError(f"{path} is not CSV: it has a line of {_LINE:,} bytes or more.")
            if not lines:
                continue
            reading = pcsv.ReadOptions(
                use_threads=False,
                block_size=len(first) + len(lines) + 1,
                column_names=list(form.names) or None,
            )
            try:
                # Not as a Python stream: pyarrow reads ahead on threads that outlive an error, and
                # would call Python while the interpreter exits.
                table = pcsv.read_csv(
                    pa.BufferReader(first + lines + b"\n"), reading, parsing, converting
                )
            except pa.ArrowException as error:
                raise StoreError(f"{path} is not CSV: {_message(error)}.") from error
            for batch in table.to_batches():
                block = _parse_block(batch, form, columns)
                block.odd, odd[:] = list(odd), []
                yield block
    if digest.hexdigest() != contents.digest:
        raise StoreError(f"{path} was changed while it was read: run the import again.")
    if rest:
        odd.append((rest.decode(errors="replace"), "its line has no end: it may be truncated"))
    if odd:
        yield CsvBlock(odd=odd)


def _parse_block(batch: pa.RecordBatch, form: CsvFormat, columns: dict[str, str]) -> CsvBlock:
    texts = {ours: _texts(batch[theirs]) for ours, theirs in columns.items()}
    event = parse_times(texts["ts_event"], form.unit, form.zone)
    received = parse_times(texts["ts_recv"], form.unit, form.zone) if "ts_recv" in texts else event
    values = {ours: array.to_pylist() for ours, array in texts.items()}
    return CsvBlock(values, event.to_pylist(), received.to_pylist())


def _texts(column: pa.BinaryArray) -> pa.StringArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode(errors="replace") for value in column.to_pylist()])


def _refuse_other_formats(path: Path, start: bytes) -> None:
    """Raise ``StoreError`` if ``start``, the beginning of a file, is not CSV in UTF-8."""
    for mark, name in _ENCODINGS.items():
        if start.startswith(mark):
            raise StoreError(
                f"{path} is written in {name}: convert it to UTF-8, as with "
                f"`iconv -f {name} -t UTF-8`."
            )
    for mark, name in _COMPRESSIONS.items():
        if start.startswith(mark):
            raise StoreError(
                f"{path} is compressed with {name}: decompress it. The only compressed files that "
                "are read are gzip files, and their names end with .csv.gz."
            )
    first, _, rest = start.partition(b"\n")
    if b"\0" in first:
        raise StoreError(
            f"{path} is not text in UTF-8: its first line has NUL bytes. If it is written in "
            "UTF-16, convert it."
        )
    for part in (first, rest):
        if b"\n" not in part and b"\r" in part.strip(b"\r"):
            raise StoreError(
                f"{path} ends its lines with carriage returns alone: convert them to line feeds, "
                "as with `tr '\\r' '\\n'`."
            )


def _message(error: Exception) -> str:
    """The message of the system or a library on one line, without the path."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")


def _open_source(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


_NS = {"s": NS_PER_SECOND, "ms": NS_PER_MS, "us": NS_PER_US, "ns": 1}
_INT64 = 2**63


def parse_times(texts: pa.StringArray, unit: str, zone: str) -> pa.Int64Array:
    """Parse times to nanoseconds since the epoch (UTC); null where a text is not a time.

    ``unit`` is that of numbers (``s``, ``ms``, ``us``, ``ns``), or ``iso`` for text like
    ``2026-11-23 14:30:00.123``. Without an offset from UTC, text is in ``zone``, and null in an
    hour that summer time skips or repeats.
    """
    if unit == "iso":
        return _parse_iso(texts, zone)
    try:
        return pc.multiply_checked(texts.cast(pa.int64()), _NS[unit])
    except pa.ArrowInvalid:  # fractions, or not numbers
        return pa.array([_exact_ns(text, _NS[unit]) for text in texts.to_pylist()], pa.int64())


def _exact_ns(text: str, factor: int) -> int | None:
    try:
        number = int(Decimal(text) * factor)
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return number if -_INT64 <= number < _INT64 else None


def _parse_iso(texts: pa.StringArray, zone: str) -> pa.Int64Array:
    def zoned() -> pa.Array:
        return texts.cast(pa.timestamp("ns", "UTC"))

    def naive() -> pa.Array:
        return pc.assume_timezone(texts.cast(pa.timestamp("ns")), zone)

    for parse in (zoned, naive):
        times = _parse_all(parse)
        if times is not None:
            return times
    if len(texts) == 1:
        return pa.nulls(1, pa.int64())
    # Some are not times, or only some have an offset: find them by halves.
    half = len(texts) // 2
    return pa.concat_arrays([_parse_iso(texts[:half], zone), _parse_iso(texts[half:], zone)])


def _parse_all(parse: Callable[[], pa.Array]) -> pa.Int64Array | None:
    try:
        return parse().cast(pa.int64())
    except pa.ArrowInvalid:
        return None
