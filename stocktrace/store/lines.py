"""Text of CSV segments as columns; every type is declared, nothing is guessed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv

from stocktrace.errors import ConversionError
from stocktrace.store.columns import SCHEMA
from stocktrace.trade import COLUMNS

_BLOCK = 1 << 20
_PARSE = pcsv.ParseOptions(quote_char=False)
_CONVERT = pcsv.ConvertOptions(
    column_types=SCHEMA,
    include_columns=SCHEMA.names,
    null_values=[],
    strings_can_be_null=False,
)


def parse_segment(path: Path, source: Path | pa.BufferReader) -> Iterator[pa.RecordBatch]:
    """The rows of a segment, behind its header, of ``SCHEMA``; ``path`` is its name for a person.

    Raises:
        ConversionError: it is none.
    """
    read = pcsv.ReadOptions(
        use_threads=False, block_size=_BLOCK, column_names=list(COLUMNS), skip_rows=1
    )
    try:
        with pcsv.open_csv(source, read, _PARSE, _CONVERT) as reader:
            for batch in reader:
                yield batch.cast(SCHEMA)
    except pa.ArrowInvalid as error:
        raise ConversionError(f"{path} is not a segment: {error}.") from error


def parse_lines(lines: bytes) -> pa.Table:
    """Whole lines, without header, as a table of ``SCHEMA``; the order stays.

    They may be of several segments: for who reads along.

    Raises:
        ConversionError: they are not of a segment.
    """
    if not lines:
        return SCHEMA.empty_table()
    read = pcsv.ReadOptions(use_threads=False, column_names=list(COLUMNS))
    try:
        return pcsv.read_csv(pa.BufferReader(lines), read, _PARSE, _CONVERT).cast(SCHEMA)
    except pa.ArrowInvalid as error:
        raise ConversionError(f"These lines are of no segment: {error}.") from error
