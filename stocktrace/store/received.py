"""The published trades of a ticker from a stretch of receive time, and whose each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import footer
from stocktrace.store.columns import SCHEMA
from stocktrace.store.names import Part, is_day
from stocktrace.store.shelf import Shelf

Numbers = npt.NDArray[np.int64]

US_PER_DAY = 86_400_000_000
_RECEIVED = SCHEMA.get_field_index("ts_recv")
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Received:
    """Trades (``SCHEMA``) in the order in which readers have them.

    ``sessions[whose[i]]`` is the session of the i-th.
    """

    trades: pa.Table
    whose: Numbers
    sessions: Sequence[str]

    @property
    def times(self) -> Numbers:
        """When they were received, epoch us."""
        return times_of(self.trades)


def times_of(trades: pa.Table) -> Numbers:
    """``ts_recv``, epoch us."""
    times: Numbers = trades["ts_recv"].cast("int64").to_numpy()
    return times


def midnight(day: str) -> int:
    """When a UTC date begins, epoch us."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000


def received(shelf: Shelf, ticker: str, begin: int, end: int) -> Received:
    """What was received of ``ticker`` from ``begin`` until before ``end`` (epoch us).

    Row groups of other times are not read.

    Raises:
        ConversionError: a file does not tell of what sessions it is.
        FileNotFoundError: a day was compacted meanwhile.
    """
    numbers: dict[str, int] = {}
    tables, whose = [SCHEMA.empty_table()], [np.empty(0, np.int64)]
    for number in range(begin // US_PER_DAY, (end - 1) // US_PER_DAY + 1):
        day = (_EPOCH + timedelta(number)).isoformat()
        for path in shelf.trades(ticker, day):
            table, sessions = _rows(path, shelf.files, numbers, begin, end)
            tables.append(table)
            whose.append(sessions)
    return Received(pa.concat_tables(tables), np.concatenate(whose), list(numbers))


def _rows(
    path: str, files: pafs.FileSystem, numbers: dict[str, int], begin: int, end: int
) -> tuple[pa.Table, Numbers]:
    with pq.ParquetFile(path, filesystem=files, page_checksum_verification=True) as file:
        facts = file.metadata
        sizes = [facts.row_group(at).num_rows for at in range(facts.num_row_groups)]
        ends = np.cumsum(sizes)
        near = [at for at in range(len(sizes)) if _is_near(facts.row_group(at), begin, end)]
        if not near:
            return SCHEMA.empty_table(), np.empty(0, np.int64)
        sessions = _sessions(Path(path), facts, numbers)
        whose = np.concatenate([sessions[ends[at] - sizes[at] : ends[at]] for at in near])
        table = file.read_row_groups(near, SCHEMA.names)
    times = times_of(table)
    inside = (times >= begin) & (times < end)
    return table.filter(pa.array(inside)), whose[inside]


def _is_near(group: pq.RowGroupMetaData, begin: int, end: int) -> bool:
    limits = group.column(_RECEIVED).statistics
    if limits is None or not limits.has_min_max:
        return True
    return bool(limits.max_raw >= begin and limits.min_raw < end)


def _sessions(path: Path, facts: pq.FileMetaData, numbers: dict[str, int]) -> Numbers:
    """The number of each row's session."""
    parts = _parts(path, facts) if is_day(path) else [(Part.parse(path), facts.num_rows)]
    pairs = [(numbers.setdefault(part.session, len(numbers)), rows) for part, rows in parts]
    whose = np.repeat([number for number, _ in pairs], [rows for _, rows in pairs])
    if len(whose) != facts.num_rows:
        raise ConversionError(f"{path} has {facts.num_rows} rows, but tells of others.")
    return whose


def _parts(path: Path, facts: pq.FileMetaData) -> list[tuple[Part, int]]:
    try:
        told = footer.parse_parts((facts.metadata or {})[b"stocktrace.parts"].decode())
    except (KeyError, ValueError) as error:
        raise ConversionError(f"{path} does not tell what it is made of: {error}.") from error
    return [(part, rows) for part, rows, _ in told]
