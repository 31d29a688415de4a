"""A third-party CSV file and its mapping, as frames that Finnhub could have sent.

Each row becomes a frame, received at its ``ts_recv`` or, without that column, when it happened. The
file is only read, without guessing and without losing a row. Values stay text until the schema
checks them; times become integers exactly, never by way of a float. Two kinds of lines are kept as
they are: a row with too many or too few fields, and what follows the last line feed, because a
number that was cut off still parses.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from stocktrace.errors import StoreError
from stocktrace.feed import protocol
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.store.files import other_kind
from stocktrace.units import NS_PER_MS, NS_PER_SECOND, NS_PER_US

ENDINGS = (".csv", ".csv.gz")
#: CSV that cannot be read. In a folder it is reported, so that it is not overlooked.
UNREAD_ENDINGS = (".csv.bz2", ".csv.lz4", ".csv.xz", ".csv.zip", ".csv.zst")
# The first bytes of files that are not CSV in UTF-8. UTF-32 is first: it begins like UTF-16.
_ENCODINGS = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
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
_BETWEEN_CODES = re.compile(r"[\s,]+")
_NS = {"s": NS_PER_SECOND, "ms": NS_PER_MS, "us": NS_PER_US, "ns": 1}
_INT64 = 2**63

#: When a frame was received (epoch ns; ``None``: the file does not say), and the frame.
TimedFrame = tuple[int | None, bytes]


class EmptySource(StoreError):
    """The file has no rows."""


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A CSV file that has the columns of its mapping; ``digest`` is that of its content.

    ``columns`` maps our column names to its own. ``ticker`` is ``None`` if it is in each row.
    """

    path: Path
    mapping: ColumnMapping
    digest: str
    columns: dict[str, str]
    ticker: str | None

    @classmethod
    def of(cls, path: Path, mapping: ColumnMapping) -> CsvSource:
        """Check a file against a mapping.

        Raises:
            UsageError: it lacks columns of the mapping.
            EmptySource: it is empty.
            StoreError: it is not a file, cannot be read to the end, or is not CSV in UTF-8.
        """
        digest, line = _read_file(path)
        columns = mapping.of_file(path, mapping.names or _names_in(line, path, mapping.delimiter))
        return cls(path, mapping, digest, columns, mapping.ticker_of(path))

    @property
    def facts(self) -> dict[str, str]:
        """The facts that determine its trades (content, mapping), for report and tape."""
        return {"content": self.digest, **self.mapping.facts(self.path)}

    def blocks(self) -> Iterator[list[TimedFrame]]:
        """Its rows as frames, block by block.

        Raises:
            StoreError: it is not CSV, or was changed in the meantime.
        """
        path, names = self.path, self.mapping.names
        odd: list[TimedFrame] = []

        def keep_odd(row: Any) -> str:
            fields = f"it has {row.actual_columns} fields instead of {row.expected_columns}"
            odd.append(_unusable_line(row.text or "", fields))
            return "skip"

        theirs = list(dict.fromkeys(self.columns.values()))
        parsing = pcsv.ParseOptions(delimiter=self.mapping.delimiter, invalid_row_handler=keep_odd)
        converting = pcsv.ConvertOptions(
            column_types=dict.fromkeys(theirs, pa.binary()),
            include_columns=theirs,
            null_values=[],
        )
        digest = hashlib.blake2b(digest_size=16)
        with _open_source(path) as file:
            # Each block is parsed with the header line before it, which alone has no rows.
            first = b"" if names else file.readline(_LINE)
            digest.update(first)
            lines, rest = b"", b""
            while chunk := file.read(_BLOCK):
                digest.update(chunk)
                lines, _, rest = (rest + chunk).rpartition(b"\n")
                if max(len(first), len(rest)) >= _LINE:
                    raise StoreError(
                        f"{path} is not CSV: it has a line of {_LINE:,} bytes or more."
                    )
                if not lines:
                    continue
                reading = pcsv.ReadOptions(
                    use_threads=False,
                    block_size=len(first) + len(lines) + 1,
                    column_names=list(names) or None,
                )
                try:
                    # Not as a Python stream: pyarrow reads ahead on threads that outlive an error,
                    # and would call Python while the interpreter exits.
                    table = pcsv.read_csv(
                        pa.BufferReader(first + lines + b"\n"), reading, parsing, converting
                    )
                except pa.ArrowException as error:
                    raise StoreError(f"{path} is not CSV: {_message(error)}.") from error
                for batch in table.to_batches():
                    frames = [*self._frames(batch), *odd]
                    odd.clear()
                    yield frames
        if digest.hexdigest() != self.digest:
            raise StoreError(f"{path} was changed while it was read: run the import again.")
        if rest:
            reason = "its line has no end: it may be truncated"
            odd.append(_unusable_line(rest.decode(errors="replace"), reason))
        if odd:
            yield odd

    def _frames(self, batch: pa.RecordBatch) -> Iterator[TimedFrame]:
        arrays = {ours: _decode_texts(batch[theirs]) for ours, theirs in self.columns.items()}
        unit, zone = self.mapping.unit, self.mapping.timezone
        event = parse_times(arrays["ts_event"], unit, zone)
        received = parse_times(arrays["ts_recv"], unit, zone) if "ts_recv" in arrays else event
        texts = {ours: array.to_pylist() for ours, array in arrays.items()}
        for time, price, volume, event_ns, received_ns, ticker, codes in zip(
            texts["ts_event"],
            texts["price"],
            texts["volume"],
            event.to_pylist(),
            received.to_pylist(),
            itertools.repeat(self.ticker, len(batch))
            if self.ticker is not None
            else map(self.mapping.ticker_in, texts["symbol"]),
            texts.get("conditions", itertools.repeat("", len(batch))),
            strict=True,
        ):
            when = time if event_ns is None else event_ns // NS_PER_MS
            row = {"c": _condition_codes(codes), "p": price, "s": ticker, "t": when, "v": volume}
            yield received_ns, protocol.frame_of(row, ("p", "v"))


def _unusable_line(line: str, reason: str) -> TimedFrame:
    return None, protocol.frame_of({"line": line, "odd": reason})


@lru_cache(1 << 12)
def _condition_codes(text: str) -> tuple[str, ...] | None:
    return tuple(filter(None, _BETWEEN_CODES.split(text))) or None


def _decode_texts(column: pa.BinaryArray) -> pa.StringArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode(errors="replace") for value in column.to_pylist()])


def _read_file(path: Path) -> tuple[str, bytes]:
    """A hash of the whole content, decompressed, and the first line."""
    digest, start = hashlib.blake2b(digest_size=16), b""
    try:
        if kind := other_kind(path):
            raise StoreError(f"{path} is {kind}, not a CSV file.")
        with _open_source(path) as file:
            while chunk := file.read(_BLOCK):
                if not start:
                    start = chunk
                    _refuse_other_formats(path, start)
                digest.update(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read to the end: {_message(error)}.") from error
    if not start:
        raise EmptySource(f"{path} is empty.")
    return digest.hexdigest(), start.partition(b"\n")[0]


def _names_in(line: bytes, path: Path, delimiter: str) -> Sequence[str]:
    text = line.decode("utf-8-sig", "replace").rstrip("\r")
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error as error:
        raise StoreError(f"{path} is not CSV: its first line cannot be read ({error}).") from error


def _refuse_other_formats(path: Path, start: bytes) -> None:
    """Raise ``StoreError`` if ``start``, the beginning of a file, is not CSV in UTF-8."""
    for name, marks in _ENCODINGS.items():
        if start.startswith(marks):
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


def parse_times(texts: pa.StringArray, unit: str, zone: str) -> pa.Int64Array:
    """Parse times of a ``column_mapping.Unit`` to epoch ns; null where a text is not a time.

    Without an offset from UTC, an ``iso`` time is in ``zone``, and null in an hour that summer time
    skips or repeats.
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
    with contextlib.suppress(pa.ArrowInvalid):
        return texts.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    with contextlib.suppress(pa.ArrowInvalid):
        return pc.assume_timezone(texts.cast(pa.timestamp("ns")), zone).cast(pa.int64())
    if len(texts) == 1:
        return pa.nulls(1, pa.int64())
    # Some are not times, or only some have an offset: find them by halves.
    half = len(texts) // 2
    return pa.concat_arrays([_parse_iso(texts[:half], zone), _parse_iso(texts[half:], zone)])
