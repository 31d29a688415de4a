"""CSV files of others, read so that nothing is guessed and no row is lost.

Every value is text until somebody who knows looks at it. A row with too many or too few fields, and
what follows the last line feed (it may be cut, and a number that was cut still parses), are kept as
they are.
"""
# MERGED """Texts of times as numbers, exactly: nothing is rounded by way of a float."""

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
#: CSV that cannot be read here. In a folder it is reported, or it would be missed by nobody.
UNREAD_ENDINGS = (".csv.bz2", ".csv.lz4", ".csv.xz", ".csv.zip", ".csv.zst")
# The first bytes of files that are not CSV in UTF-8. UTF-32 comes before UTF-16, its beginning.
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
# Longer than any line of trades; a file whose last line is longer is none.
_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceContents:
    """What a file holds, decompressed: a hash of all of it."""

    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> SourceContents:
        """Read a file once.

        Raises:
            StoreError: it is not a file, cannot be read to its end, or is not CSV in UTF-8.
        """
        digest, size = _hash(), 0
        try:
            if kind := other_kind(path):
                raise StoreError(f"{path} is {kind}, not a CSV file.")
            with _open_source(path) as file:
                while chunk := file.read(_BLOCK):
                    if not size:
                        _refuse_other_forms(path, chunk)
                    digest.update(chunk)
                    size += len(chunk)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(f"{path} cannot be read to its end: {_words(error)}.") from error
        return cls(digest.hexdigest(), size)


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a file is written; ``names`` are given if it has no line of them."""

    delimiter: str = ","
    names: Sequence[str] = ()
    unit: str = "iso"
    zone: str = "UTC"


@dataclass(slots=True)
class CsvBlock:
    """Consecutive rows: ``texts`` by our names for the columns, all of one length.

    ``event`` and ``received`` are epoch ns, or ``None`` where the text tells no time; ``odd`` are
    lines that are no rows, each with the reason.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    event: list[int | None] = field(default_factory=list)
    received: list[int | None] = field(default_factory=list)
    odd: list[tuple[str, str]] = field(default_factory=list)


def read_column_names(path: Path, form: CsvFormat) -> list[str]:
    """The names of a file's columns; none if it is empty.

    Raises:
        StoreError: it cannot be read, or its first line is not CSV.
    """
    if form.names:
        return list(form.names)
    try:
        with _open_source(path) as file:
            line = file.readline(_LINE).decode("utf-8-sig", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read: {_words(error)}.") from error
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=form.delimiter), [])
    except csv.Error as error:
        raise StoreError(f"{path} is not CSV: its first line cannot be read ({error}).") from error


def read_blocks(
    path: Path, form: CsvFormat, columns: dict[str, str], contents: SourceContents
) -> Iterator[CsvBlock]:
    """The rows of a file; ``columns`` has their names by ours.

    Raises:
        StoreError: it is no CSV, or not what ``contents`` had been.
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
        # The line of the names stands before each block. A file that is only that has no rows.
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
                # Not as a stream of ours: pyarrow reads ahead on threads that outlive an error, and
                # would call Python while it ends.
                table = pcsv.read_csv(
                    pa.BufferReader(first + lines + b"\n"), reading, parsing, converting
                )
            except pa.ArrowException as error:
                raise StoreError(f"{path} is not CSV: {_words(error)}.") from error
            for batch in table.to_batches():
                block = _parse_block(batch, form, columns)
                block.odd, odd[:] = list(odd), []
                yield block
    if digest.hexdigest() != contents.digest:
        raise StoreError(f"{path} was changed while it was read: run it again.")
    if rest:
        odd.append((rest.decode(errors="replace"), "its line has no end: it may be cut"))
    if odd:
        yield CsvBlock(odd=odd)


def _parse_block(batch: pa.RecordBatch, form: CsvFormat, columns: dict[str, str]) -> CsvBlock:
    texts = {ours: _texts(batch[theirs]) for ours, theirs in columns.items()}
    event = epoch_ns(texts["ts_event"], form.unit, form.zone)
    received = epoch_ns(texts["ts_recv"], form.unit, form.zone) if "ts_recv" in texts else event
    values = {ours: array.to_pylist() for ours, array in texts.items()}
    return CsvBlock(values, event.to_pylist(), received.to_pylist())


def _texts(column: pa.BinaryArray) -> pa.StringArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode(errors="replace") for value in column.to_pylist()])


def _refuse_other_forms(path: Path, start: bytes) -> None:
    """Raise ``StoreError`` if a file that begins with ``start`` is not CSV in UTF-8."""
    for mark, name in _ENCODINGS.items():
        if start.startswith(mark):
            raise StoreError(
                f"{path} is written in {name}: convert it to UTF-8, as with "
                f"`iconv -f {name} -t UTF-8`."
            )
    for mark, name in _COMPRESSIONS.items():
        if start.startswith(mark):
            raise StoreError(
                f"{path} is compressed with {name}: decompress it. Of compressed files, only those "
                "of gzip are read, and their names end with .csv.gz."
            )
    first, _, rest = start.partition(b"\n")
    if b"\0" in first:
        raise StoreError(
            f"{path} is not text in UTF-8: its first line has NUL bytes. If it is written in "
            "UTF-16, convert it."
        )
    for stretch in (first, rest):
        if b"\n" not in stretch and b"\r" in stretch.strip(b"\r"):
            raise StoreError(
                f"{path} ends its lines with carriage returns alone: convert them to line feeds, "
                "as with `tr '\\r' '\\n'`."
            )


def _words(error: Exception) -> str:
    """What the system or a library says, on one line and without the path of the sentence."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")


def _open_source(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


_NS = {"s": NS_PER_SECOND, "ms": NS_PER_MS, "us": NS_PER_US, "ns": 1}
_INT64 = 2**63


def epoch_ns(texts: pa.StringArray, unit: str, zone: str) -> pa.Int64Array:
    """Nanoseconds since the epoch (UTC); null where a text tells none.

    ``unit`` is that of numbers (``s``, ``ms``, ``us``, ``ns``), or ``iso`` for text like
    ``2026-11-23 14:30:00.123``, which is of ``zone`` if it has no offset from UTC. An hour that
    summer time skips or repeats tells none without one.
    """
    if unit == "iso":
        return _parse_iso(texts, zone)
    try:
        return pc.multiply_checked(texts.cast(pa.int64()), _NS[unit])
    except pa.ArrowInvalid:  # fractions, or something odd
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

    for whole in (zoned, naive):
        found = _if_all(whole)
        if found is not None:
            return found
    if len(texts) == 1:
        return pa.nulls(1, pa.int64())
    # A few of them are odd, or some have an offset and some have none: find them by halves.
    half = len(texts) // 2
    return pa.concat_arrays([_parse_iso(texts[:half], zone), _parse_iso(texts[half:], zone)])


def _if_all(whole: Callable[[], pa.Array]) -> pa.Int64Array | None:
    try:
        return whole().cast(pa.int64())
    except pa.ArrowInvalid:
        return None
