"""Reconciliation of a day: how complete the published trades are, compared with REST.

REST has trades that the live feed does not send (the full SIP), lacks some, and has no receive
times. Therefore a share of trades may differ, and trades within a second of a gap's edge are not
judged. Only trades of the time that was listened to can be missing.

``reconciled/date=<New York date>/completeness.parquet`` has one row per ticker, with the fields of
``Completeness``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.backfill import matching
from stocktrace.backfill.plan import (
    DAY_NOT_OVER,
    EDGE_US,
    UNKNOWN_TICKER,
    US_STOCKS_ONLY,
    has_ended,
    reason_to_wait,
)
from stocktrace.calendar import NEW_YORK, Market, market_of, us_extended_session
from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import ConversionError, InvalidResponse, TicksNotFound, UsageError
from stocktrace.feed.rest import RestClient
from stocktrace.intervals import TimeSpan, covered_length, merge_spans, widen_spans
from stocktrace.query import gap_fills
from stocktrace.query.coverage import listened_spans
from stocktrace.query.gap_fills import GapFill
from stocktrace.store.layout import Layout
from stocktrace.store.parquet import publish_table, read_table
from stocktrace.store.source import FolderSource
from stocktrace.units import US_PER_SECOND, epoch_us, utc_datetime

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


_TYPES = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
_SCHEMA = pa.schema(
    [(name, _TYPES.get(kind, pa.string())) for name, kind in Completeness.__annotations__.items()]
)


def last_trading_day(clock: Clock = SYSTEM_CLOCK) -> date:
    """Return the last New York date whose extended hours have ended."""
    now = utc_datetime(clock.wall()).astimezone(NEW_YORK)
    day = now.date()
    while us_extended_session(day) is None or not has_ended(day, now):
        day -= timedelta(days=1)
    return day


def reconcile_day(
    layout: Layout,
    rest: RestClient,
    day: date,
    tickers: Sequence[str] = (),
    min_share: float = 0.99,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Completeness]:
    """Yield the completeness of a New York date, ticker by ticker, and write it to disk at the end.

    ``tickers`` defaults to the US stocks that any session listened to. A day is complete if at
    least ``min_share`` of the ticks listened to are published, and of the trades have equal ticks.

    Raises:
        UsageError: the market was closed that day, or no session listened.
        KeyRefused, PlanForbidden, ServerUnavailable: nothing more can be fetched; the results so
            far are written.
        StoreError: a file is damaged.
    """
    hours = us_extended_session(day)
    if hours is None:
        raise UsageError(f"The US market was closed on {day}: choose a trading day.")
    whole = epoch_us(hours.opens), epoch_us(hours.closes)
    all_fills = gap_fills.read_gap_fills(FolderSource(layout)).values()
    fills = [fill for fill in all_fills if fill.date == day.isoformat()]
    listened = _listened_or_repaired(layout, day, fills)
    wanted = list(tickers) or [
        ticker for ticker, spans in sorted(listened.items()) if covered_length(whole, spans)
    ]
    if not wanted:
        raise UsageError(
            f"No session listened to a US stock on {day}: set another --date, or --tickers."
        )
    is_over = has_ended(day, utc_datetime(clock.wall()))
    repaired: Counter[str] = Counter()
    for fill in fills:
        repaired[fill.symbol] += fill.rows
    results: list[Completeness] = []
    try:
        for ticker in wanted:
            result = Completeness(ticker, day.isoformat(), "unavailable")
            if market_of(ticker) is not Market.US:
                result = replace(result, reason=US_STOCKS_ONLY)
            elif not is_over:
                result = replace(result, reason=DAY_NOT_OVER)
            else:
                result = replace(result, repaired=repaired[ticker])
                result = _compare(layout, rest, result, whole, listened.get(ticker, []), clock)
                result = _with_state(result, min_share)
            results.append(result)
            yield result
    finally:
        if results:
            write_completeness(layout, day.isoformat(), results)


def _listened_or_repaired(
    layout: Layout, day: date, fills: Iterable[GapFill]
) -> dict[str, list[TimeSpan]]:
    """When each US stock was listened to; repaired gaps count."""
    # A New York date ends on the next UTC date.
    dates = [day.isoformat(), (day + timedelta(days=1)).isoformat()]
    listened = {
        ticker: spans
        for ticker, spans in listened_spans(layout.root, (), dates).items()
        if market_of(ticker) is Market.US
    }
    for fill in fills:
        if fill.state == "repaired":
            listened.setdefault(fill.symbol, []).append((fill.start, fill.end))
    return {ticker: merge_spans(spans) for ticker, spans in listened.items()}


def _compare(
    layout: Layout,
    rest: RestClient,
    result: Completeness,
    whole: TimeSpan,
    listened: Sequence[TimeSpan],
    clock: Clock,
) -> Completeness:
    """Count the fields of ``result``."""
    day = date.fromisoformat(result.date)
    try:
        ticks = matching.fetch_tick_table(rest, result.symbol, day)
    except TicksNotFound:
        return replace(result, reason=reason_to_wait(day, clock))
    except InvalidResponse as error:
        return replace(result, reason=str(error))
    if not len(ticks):
        return replace(result, reason=UNKNOWN_TICKER)
    trades = matching.published_ticks(layout, result.symbol, [whole])
    missing = matching.find_missing(ticks, trades)
    matched = int((~missing).sum())
    unmatched = matching.count_unmatched(trades, ticks)
    within = matching.filter_within(ticks, widen_spans(listened, -EDGE_US))
    low, high, volume = _low_high_volume(trades)
    tick_low, tick_high, tick_volume = _low_high_volume(ticks)
    return replace(
        result,
        state="complete",
        trades=len(trades),
        ticks=len(ticks),
        matched=matched,
        duplicates=len(trades) - unmatched - matched,
        trades_unmatched=unmatched,
        listened_seconds=covered_length(whole, listened) / US_PER_SECOND,
        ticks_listened=int(within.sum()),
        ticks_matched=int((within & ~missing).sum()),
        volume=volume,
        tick_volume=tick_volume,
        low=low,
        tick_low=tick_low,
        high=high,
        tick_high=tick_high,
    )


def _low_high_volume(table: matching.TickTable) -> tuple[float | None, float | None, float]:
    bounds = pc.min_max(table["price"])
    return bounds["min"].as_py(), bounds["max"].as_py(), pc.sum(table["volume"]).as_py() or 0.0


def _with_state(counts: Completeness, min_share: float) -> Completeness:
    if counts.state == "unavailable":
        return counts
    if counts.trades_unmatched > counts.trades * (1 - min_share):
        reason = f"{counts.trades_unmatched:,} of {counts.trades:,} trades have no equal tick"
        return replace(counts, state="different", reason=reason)
    if not counts.ticks_listened:
        return replace(counts, state="uncaptured", reason="no session listened during the ticks")
    if counts.ticks_matched < counts.ticks_listened * min_share:
        missing = counts.ticks_listened - counts.ticks_matched
        reason = f"{missing:,} of {counts.ticks_listened:,} ticks listened to are missing"
        return replace(counts, state="incomplete", reason=reason)
    return counts


def write_completeness(layout: Layout, date: str, results: Iterable[Completeness]) -> None:
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
