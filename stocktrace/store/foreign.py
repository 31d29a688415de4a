"""CSV files of others, read so that nothing is guessed and no row is lost.

Every value is text until somebody who knows looks at it. A row with too many or too few fields, and
what follows the last line feed (it may be cut, and a number that was cut still parses), are kept as
they are.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pcsv

from stocktrace.errors import StoreError
from stocktrace.store.times import epoch_ns

ENDINGS = (".csv", ".csv.gz")
_BLOCK = 1 << 20
# Longer than any line of trades; a file whose last line is longer is none.
_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, decompressed: a hash of all of it."""

    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Contents:
        """Read a file once.

        Raises:
            StoreError: it cannot be read to its end.
        """
        digest, size = _hash(), 0
        try:
            with _open(path) as file:
                while chunk := file.read(_BLOCK):
                    digest.update(chunk)
                    size += len(chunk)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(f"{path} cannot be read to its end: {error}.") from error
        return cls(digest.hexdigest(), size)


@dataclass(frozen=True, slots=True)
class Form:
    """How a file is written; ``names`` are given if it has no line of them."""

    delimiter: str = ","
    names: Sequence[str] = ()
    unit: str = "iso"
    zone: str = "UTC"


@dataclass(slots=True)
class Block:
    """Consecutive rows: ``texts`` by our names for the columns, all of one length.

    ``event`` and ``received`` are epoch ns, or ``None`` where the text tells no time; ``odd`` are
    lines that are no rows, each with the reason.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    event: list[int | None] = field(default_factory=list)
    received: list[int | None] = field(default_factory=list)
    odd: list[tuple[str, str]] = field(default_factory=list)


def names_of(path: Path, form: Form) -> list[str]:
    """The names of a file's columns; none if it is empty.

    Raises:
        StoreError: it cannot be read.
    """
    if form.names:
        return list(form.names)
    try:
        with _open(path) as file:
            line = file.readline(_LINE).decode("utf-8-sig", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    return next(csv.reader([line.rstrip("\r\n")], delimiter=form.delimiter), [])


def read(path: Path, form: Form, columns: dict[str, str], contents: Contents) -> Iterator[Block]:
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
    with _open(path) as file:
        # The line of the names stands before each block. A file that is only that has no rows.
        first = b"" if form.names else file.readline(_LINE)
        digest.update(first)
        lines, rest, whole = b"", b"", bool(first)
        while chunk := file.read(_BLOCK):
            digest.update(chunk)
            lines, _, rest = (rest + chunk).rpartition(b"\n")
            if max(len(first), len(rest)) >= _LINE:
                raise StoreError(f"{path} is no CSV: it has a line of {_LINE:,} bytes or more.")
            if not lines:
                continue
            whole = True
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
            except pa.ArrowInvalid as error:
                raise StoreError(f"{path} is no CSV: {error}.") from error
            for batch in table.to_batches():
                block = _block(batch, form, columns)
                block.odd, odd[:] = list(odd), []
                yield block
    if digest.hexdigest() != contents.digest:
        raise StoreError(f"{path} was changed while it was read: run it again.")
    if rest and whole:
        odd.append((rest.decode(errors="replace"), "its line has no end: it may be cut"))
    if odd:
        yield Block(odd=odd)


def _block(batch: pa.RecordBatch, form: Form, columns: dict[str, str]) -> Block:
    texts = {ours: _texts(batch[theirs]) for ours, theirs in columns.items()}
    event = epoch_ns(texts["ts_event"], form.unit, form.zone)
    received = epoch_ns(texts["ts_recv"], form.unit, form.zone) if "ts_recv" in texts else event
    values = {ours: array.to_pylist() for ours, array in texts.items()}
    return Block(values, event.to_pylist(), received.to_pylist())


def _texts(column: pa.BinaryArray) -> pa.StringArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode(errors="replace") for value in column.to_pylist()])


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
