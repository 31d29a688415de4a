"""What is published of a ticker's day beside the ticks that REST has of it, and where that stands.

``reconciled/date=<New York date>/completeness.parquet`` has a row a ticker: the fields of
``Completeness``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.backfill.matching import TickPages, TimeSpans, filter_within, match_ticks
from stocktrace.errors import ConversionError
from stocktrace.store.layout import Layout
from stocktrace.store.parquet import publish_table, read_table

#: ``different``: too many trades of ours are not among the ticks; ``unheard``: nobody listened, and
#: no gap was repaired; ``unavailable``: there are no ticks to compare with.
CompletenessState = Literal["complete", "incomplete", "different", "unheard", "unavailable"]


@dataclass(frozen=True, slots=True)
class Completeness:
    """A ticker's New York date, extended hours included.

    ``trades`` are published, ``repaired`` of them by a repair of gaps; ``ticks`` are the server's,
    ``matched`` of them published. ``copies`` of trades are more than the ticks have of an equal
    one, ``unknown`` equal none. ``heard`` are the ticks of while somebody listened, or of a gap
    that was repaired, and ``found`` those of them that are published; ``listened`` is how long that
    was, in seconds. Then volume and prices, ours and the server's; missing where there are none.
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
    symbol: str, date: str, ticks: TickPages, ours: TickPages, heard: TimeSpans
) -> Completeness:
    """Count; what it comes to is for others to say, the state is ``complete`` until then."""
    matching = match_ticks(ticks, ours)
    within = filter_within(ticks, heard)
    low, high, volume = _ohlcv(ours)
    tick_low, tick_high, tick_volume = _ohlcv(ticks)
    return Completeness(
        symbol,
        date,
        "complete",
        trades=len(ours),
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


def write_completeness(layout: Layout, date: str, found: Iterable[Completeness]) -> Path:
    """Put the rows of a date in place; those of other tickers stay.

    Raises:
        ConversionError: what is there is damaged.
    """
    path = layout.completeness(date)
    rows = {one.symbol: asdict(one) for one in found}
    if path.exists():
        try:
            published = read_table(path, _SCHEMA)
        except ConversionError as error:
            raise ConversionError(f"{error} Delete it and reconcile the day again.") from error
        rows = {row["symbol"]: row for row in published.to_pylist()} | rows
    table = pa.Table.from_pylist([rows[symbol] for symbol in sorted(rows)], _SCHEMA)
    publish_table(table, path, layout.converting / path.name)
    return path


def _ohlcv(table: TickPages) -> tuple[float | None, float | None, float]:
    """Lowest and highest price, and volume."""
    bounds = pc.min_max(table["price"])
    return bounds["min"].as_py(), bounds["max"].as_py(), pc.sum(table["volume"]).as_py() or 0.0
