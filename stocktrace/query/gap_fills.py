"""The results of backfills on disk: one row for each gap and New York date that it covers.

- ``repairs/<session>.parquet`` has the gaps that the trades of an import fill. It is written before
  that session and counts once the session exists, so that nothing is published twice, and nothing
  is listed as filled that is not published. Deleting the import opens its gaps again.
- ``repairs/asked.parquet`` has the last result for all other gaps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa

from stocktrace.errors import ConversionError
from stocktrace.store.layout import Layout
from stocktrace.store.parquet import publish_table, read_table
from stocktrace.store.source import DataSource, FolderSource

#: ``repaired``: all trades that the server has are published; ``unneeded``: nothing is missing;
#: ``unavailable``: the server does not have the trades, or not yet; ``open``: not requested, or the
#: request failed.
FillState = Literal["repaired", "unneeded", "unavailable", "open"]
NOT_REQUESTED = "not requested yet"

_SCHEMA = pa.schema(
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
    """The result for a gap (``start``, ``end``: epoch us) on one of ``dates`` New York dates.

    ``rows`` trades of it are in the session ``source``. ``date`` is empty if the gap is outside all
    trading days.
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
        """The gap."""
        return self.session, self.symbol, self.start, self.end

    @property
    def key(self) -> tuple[GapKey, str]:
        """The gap and the date, which have one result."""
        return self.gap_key, self.date

    def with_state(
        self, state: FillState, reason: str = "", rows: int = 0, source: str = ""
    ) -> GapFill:
        """Return a copy with another result."""
        return replace(self, state=state, reason=reason, rows=rows, source=source)


def read_gap_fills(source: DataSource) -> dict[tuple[GapKey, str], GapFill]:
    """Return the result for each gap and date; ``ConversionError`` if a file is damaged."""
    fills: dict[tuple[GapKey, str], GapFill] = {}
    # "asked" sorts behind the names of sessions, which begin with a digit.
    for path in sorted(source.gap_fills(), reverse=True):
        table = read_table(path, _SCHEMA, source.files)
        for name in ("start", "end"):
            at = _SCHEMA.get_field_index(name)
            table = table.set_column(at, name, table[name].cast("int64"))
        fills.update((fill.key, fill) for fill in (GapFill(**row) for row in table.to_pylist()))
    return fills


def write_gap_fills(path: Path, fills: Iterable[GapFill]) -> None:
    """Replace a file of results, unless it has the same ones."""
    rows = sorted(fills, key=lambda fill: fill.key)
    table = pa.Table.from_pylist([asdict(fill) for fill in rows], schema=_SCHEMA)
    with contextlib.suppress(ConversionError):  # missing or damaged: it is written
        if read_table(path, _SCHEMA).equals(table):
            return
    publish_table(table, path)


def delete_orphaned_fills(layout: Layout) -> None:
    """Delete the files of imports that do not exist."""
    paths = set(FolderSource(layout).gap_fills())
    for path in layout.fill_requests.parent.glob("[0-9]*.parquet"):
        if str(path) not in paths:
            path.unlink()


def add_fill_states(gaps: pd.DataFrame, source: DataSource) -> pd.DataFrame:
    """Add the columns ``repair`` (a ``FillState``) and ``repair_reason`` to ``gaps``."""
    by_gap: dict[GapKey, list[GapFill]] = {}
    for fill in read_gap_fills(source).values():
        by_gap.setdefault(fill.gap_key, []).append(fill)
    starts, ends = (gaps[name].astype("int64") for name in ("start", "end"))
    keys = zip(gaps["session"], gaps["symbol"], starts, ends, strict=True)
    results = [_state_of_gap(by_gap.get(key, [])) for key in keys]
    return gaps.assign(
        repair=pd.array([state for state, _ in results], dtype="str"),
        repair_reason=pd.array([reason for _, reason in results], dtype="str"),
    )


def _state_of_gap(fills: list[GapFill]) -> tuple[FillState, str]:
    """Return the result for a whole gap: the worst of its dates."""
    if not fills or len(fills) < fills[0].dates:
        return "open", NOT_REQUESTED
    order: list[FillState] = ["open", "unavailable", "repaired", "unneeded"]
    worst = min(fills, key=lambda fill: order.index(fill.state))
    return worst.state, worst.reason
