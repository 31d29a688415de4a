"""Lines of CSV segments as columns, whichever segments they are of: for who reads along."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.csv as pcsv

from stocktrace.errors import ConversionError
from stocktrace.store.columns import SCHEMA
from stocktrace.trade import COLUMNS


def parse_lines(lines: bytes) -> pa.Table:
    """Whole lines, without header, as a table of ``SCHEMA``; the order stays.

    Raises:
        ConversionError: they are not of a segment.
    """
    if not lines:
        return SCHEMA.empty_table()
    try:
        table = pcsv.read_csv(
            pa.BufferReader(lines),
            pcsv.ReadOptions(use_threads=False, column_names=list(COLUMNS)),
            pcsv.ParseOptions(quote_char=False),
            pcsv.ConvertOptions(
                column_types=SCHEMA,
                include_columns=SCHEMA.names,
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise ConversionError(f"These lines are of no segment: {error}.") from error
    return table.cast(SCHEMA)
