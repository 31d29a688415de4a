"""The completeness of a ticker's day: published trades compared with the ticks of REST.

``reconciled/date=<New York date>/completeness.parquet`` has one row per ticker, with the fields of
``Completeness``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.backfill.matching import TickTable, filter_within, match_ticks
from stocktrace.errors import ConversionError
from stocktrace.intervals import TimeSpan
from stocktrace.store.layout import Layout
from stocktrace.store.parquet import publish_table, read_table

#: ``different``: too many trades have no equal tick; ``uncaptured``: no session listened, and no
#: gap was repaired; ``unavailable``: REST has no ticks.
CompletenessState = Literal["complete", "incomplete", "different", "uncaptured", "unavailable"]


@dataclass(frozen=True, slots=True)
class Completeness:
    """A ticker's New York date, extended hours included.

    ``trades`` counts the published trades, ``repaired`` those of backfills. ``ticks`` counts the
    server's ticks, ``matched`` those with an equal trade. ``duplicates`` counts trades beyond the
    number of equal ticks, ``trades_unmatched`` trades without an equal tick. ``listened_seconds``
    is how long a session listened, repaired gaps included; ``ticks_listened`` are the ticks of that
    time, ``ticks_matched`` those of them with an equal trade. The volumes and prices of trades
    and (``tick_…``) ticks follow; prices are missing for a day without any.
    """

    symbol: str
    date: str
    state: CompletenessState
    reason: str = ""
    trades: int = 0
    repaired: int = 0
    ticks: int = 0
    matched: int = 0
    duplicates: int = 0
    trades_unmatched: int = 0
    listened_seconds: float = 0.0
    ticks_listened: int = 0
    ticks_matched: int = 0
    volume: float = 0.0
    tick_volume: float = 0.0
    low: float | None = None
    tick_low: float | None = None
    high: float | None = None
    tick_high: float | None = None


_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
}
_SCHEMA = pa.schema(
    [(name, _TYPES.get(kind, pa.string())) for name, kind in Completeness.__annotations__.items()]
)


def compare_day(
    symbol: str, date: str, ticks: TickTable, trades: TickTable, listened: Sequence[TimeSpan]
) -> Completeness:
    """Count the fields; the caller sets the state, which is ``complete`` here."""
    matching = match_ticks(ticks, trades)
    within = filter_within(ticks, listened)
    low, high, volume = _low_high_volume(trades)
    tick_low, tick_high, tick_volume = _low_high_volume(ticks)
    return Completeness(
        symbol,
        date,
        "complete",
        trades=len(trades),
        ticks=len(ticks),
        matched=len(ticks) - int(matching.missing.sum()),
        duplicates=matching.duplicates,
        trades_unmatched=matching.unmatched,
        ticks_listened=int(within.sum()),
        ticks_matched=int((within & ~matching.missing).sum()),
        volume=volume,
        tick_volume=tick_volume,
        low=low,
        tick_low=tick_low,
        high=high,
        tick_high=tick_high,
    )


def write_completeness(layout: Layout, date: str, results: Iterable[Completeness]) -> Path:
    """Write the rows of a date; those of other tickers stay.

    Raises:
        ConversionError: the existing file is damaged.
    """
    path = layout.completeness(date)
    rows = {result.symbol: asdict(result) for result in results}
    if path.exists():
        try:
            published = read_table(path, _SCHEMA)
        except ConversionError as error:
            raise ConversionError(f"{error} Delete it and reconcile the day again.") from error
        rows = {row["symbol"]: row for row in published.to_pylist()} | rows
    table = pa.Table.from_pylist([rows[symbol] for symbol in sorted(rows)], _SCHEMA)
    publish_table(table, path, layout.converting / path.name)
    return path


def _low_high_volume(table: TickTable) -> tuple[float | None, float | None, float]:
    bounds = pc.min_max(table["price"])
    return bounds["min"].as_py(), bounds["max"].as_py(), pc.sum(table["volume"]).as_py() or 0.0
