"""What became of gaps, on disk: one row a gap and New York date that it reaches into.

``repairs/<session>.parquet`` are the gaps that the trades of an import repair. It is written before
that session, and counts from the moment in which the session is there: nothing can be published
twice, or be told of and not be there. Whoever takes the import back has the gaps open again.
``repairs/asked.parquet`` tells of all others what was found the last time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import files
from stocktrace.store.layout import Layout
from stocktrace.store.source import DataSource, FolderSource

#: ``repaired``: all that was to be had is published, or there was nothing; ``unneeded``: nothing
#: is missing; ``unavailable``: it cannot be had, or not yet; ``open``: not asked, or in vain.
FillState = Literal["repaired", "unneeded", "unavailable", "open"]
NOT_REQUESTED = "not asked yet"

_REPAIRS = pa.schema(
    [
        pa.field("session", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("end", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("date", pa.string(), nullable=False),
        pa.field("dates", pa.int64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)

#: Session, ticker, start and end (epoch us): a row of coverage.
GapKey = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class GapFill:
    """What became of a gap (``start``, ``end``: epoch us) on one of ``dates`` New York dates.

    ``rows`` trades of it are in the session ``source``; ``date`` is empty if it is of none.
    """

    session: str
    symbol: str
    start: int
    end: int
    date: str
    dates: int
    state: FillState = "open"
    reason: str = NOT_REQUESTED
    rows: int = 0
    source: str = ""

    @property
    def gap_key(self) -> GapKey:
        """The gap that it is about."""
        return self.session, self.symbol, self.start, self.end

    @property
    def key(self) -> tuple[GapKey, str]:
        """What there is one of."""
        return self.gap_key, self.date

    def with_state(
        self, state: FillState, reason: str = "", rows: int = 0, source: str = ""
    ) -> GapFill:
        """The same, with another end."""
        return replace(self, state=state, reason=reason, rows=rows, source=source)


def read_gap_fills(shelf: DataSource) -> dict[tuple[GapKey, str], GapFill]:
    """What became of each gap and date; what an import repairs goes before what was asked.

    Raises:
        ConversionError: a file is damaged.
    """
    found: dict[tuple[GapKey, str], GapFill] = {}
    # "asked" sorts behind the names of sessions, which begin with a digit.
    for path in sorted(shelf.gap_fills(), reverse=True):
        found.update((one.key, one) for one in _read_fills(path, shelf))
    return found


def write_gap_fills(path: Path, repairs: Iterable[GapFill]) -> None:
    """Put a file of repairs in its place; the same ones change nothing."""
    rows = sorted(repairs, key=lambda one: one.key)
    table = pa.Table.from_pylist([dict(_gap_name(one)) for one in rows], schema=_REPAIRS)
    if path.exists() and pq.read_table(path, schema=_REPAIRS).equals(table):
        return
    _publish(path, table)


def delete_orphaned_fills(layout: Layout) -> None:
    """Remove what was written for imports that are not there."""
    told = set(FolderSource(layout).gap_fills())
    for path in layout.fill_requests.parent.glob("[0-9]*.parquet"):
        if str(path) not in told:
            path.unlink()


def add_fill_states(gaps: pd.DataFrame, shelf: DataSource) -> pd.DataFrame:
    """``gaps`` with the columns ``repair`` (see ``State``) and ``repair_reason``."""
    by_gap: dict[GapKey, list[GapFill]] = {}
    for one in read_gap_fills(shelf).values():
        by_gap.setdefault(one.gap_key, []).append(one)
    starts, ends = (gaps[name].astype("int64") for name in ("start", "end"))
    found = zip(gaps["session"], gaps["symbol"], starts, ends, strict=True)
    told = [_fills_by_gap(by_gap.get(gap, [])) for gap in found]
    return gaps.assign(
        repair=pd.array([state for state, _ in told], dtype="str"),
        repair_reason=pd.array([reason for _, reason in told], dtype="str"),
    )


def _fills_by_gap(repairs: list[GapFill]) -> tuple[FillState, str]:
    """What became of a gap as a whole: as far as it went on all its dates."""
    if not repairs or len(repairs) < repairs[0].dates:
        return "open", NOT_REQUESTED
    order: list[FillState] = ["open", "unavailable", "repaired", "unneeded"]
    worst = min(repairs, key=lambda one: order.index(one.state))
    return worst.state, worst.reason


def _gap_name(repair: GapFill) -> Iterator[tuple[str, object]]:
    yield from zip(_REPAIRS.names, astuple(repair), strict=True)


def _read_fills(path: str, shelf: DataSource) -> Iterator[GapFill]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, filesystem=shelf.files) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error
    if not table.schema.equals(_REPAIRS):
        raise ConversionError(f"{path} has other columns than ours: {table.schema}.")
    for name in ("start", "end"):
        at = _REPAIRS.get_field_index(name)
        table = table.set_column(at, name, table[name].cast("int64"))
    for row in table.to_pylist():
        yield GapFill(**row)


def _publish(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked_temporary(path) as temporary:
        with files.disk_errors(temporary):
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        files.publish_file(temporary, path)
