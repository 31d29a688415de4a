"""What is published of a ticker's day beside the ticks that REST has of it, and where that stands.

``reconciled/date=<New York date>/completeness.parquet`` has a row a ticker: the fields of
``Completeness``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import files
from stocktrace.store.layout import Layout
from stocktrace.store.matching import Stretches, Ticks, inside, match

#: ``different``: too many trades of ours are not among the ticks; ``unheard``: nobody listened, and
#: no gap was repaired; ``unavailable``: there are no ticks to compare with.
State = Literal["complete", "incomplete", "different", "unheard", "unavailable"]


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
    state: State
    reason: str = ""
    trades: int = 0
    repaired: int = 0
    ticks: int = 0
    matched: int = 0
    copies: int = 0
    unknown: int = 0
    listened: float = 0.0
    heard: int = 0
    found: int = 0
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


def compare(symbol: str, date: str, ticks: Ticks, ours: Ticks, heard: Stretches) -> Completeness:
    """Count; what it comes to is for others to say, the state is ``complete`` until then."""
    matching = match(ticks, ours)
    within = inside(ticks, heard)
    low, high, volume = _figures(ours)
    tick_low, tick_high, tick_volume = _figures(ticks)
    return Completeness(
        symbol,
        date,
        "complete",
        trades=len(ours),
        ticks=len(ticks),
        matched=len(ticks) - int(matching.lacking.sum()),
        copies=matching.copies,
        unknown=matching.unknown,
        heard=int(within.sum()),
        found=int((within & ~matching.lacking).sum()),
        volume=volume,
        tick_volume=tick_volume,
        low=low,
        tick_low=tick_low,
        high=high,
        tick_high=tick_high,
    )


def write(layout: Layout, date: str, found: Iterable[Completeness]) -> Path:
    """Put the rows of a date in place; those of other tickers stay.

    Raises:
        ConversionError: what is there is damaged.
    """
    path = layout.reconciled(date)
    rows = {one.symbol: asdict(one) for one in found}
    if path.exists():
        rows = {row["symbol"]: row for row in _read(path)} | rows
    table = pa.Table.from_pylist([rows[symbol] for symbol in sorted(rows)], _SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    layout.converting.mkdir(parents=True, exist_ok=True)
    with files.locked_temporary(layout.converting / path.name) as temporary:
        with files.telling(temporary):
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        files.publish(temporary, path)
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return list(file.read(use_threads=False).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise ConversionError(
            f"{path} cannot be read: {error}. Remove it: it can be made again."
        ) from error


def _figures(table: Ticks) -> tuple[float | None, float | None, float]:
    """Lowest and highest price, and volume."""
    bounds = pc.min_max(table["price"])
    return bounds["min"].as_py(), bounds["max"].as_py(), pc.sum(table["volume"]).as_py() or 0.0
