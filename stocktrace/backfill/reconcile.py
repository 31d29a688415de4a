"""Reconciliation of a day: how complete the published trades are, compared with REST.

REST has trades that the live feed does not send (the full SIP), lacks some, and has no receive
times. Therefore a share of trades may differ, and trades within a second of a gap's edge are not
judged. Only trades of the time that was listened to can be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta

from stocktrace.backfill import completeness, matching
from stocktrace.backfill.completeness import Completeness
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
from stocktrace.errors import InvalidResponse, TicksNotFound, UsageError
from stocktrace.feed.rest import RestClient, fetch_ticks
from stocktrace.intervals import TimeSpan, covered_length, merge_spans, widen_spans
from stocktrace.query.coverage import listened_spans
from stocktrace.store import gap_fills
from stocktrace.store.layout import Layout
from stocktrace.store.source import FolderSource
from stocktrace.units import US_PER_SECOND, epoch_us, utc_datetime


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
    listened = _listened_or_repaired(layout, day)
    wanted = list(tickers) or [
        ticker for ticker, spans in sorted(listened.items()) if _seconds(whole, spans)
    ]
    if not wanted:
        raise UsageError(
            f"No session listened to a US stock on {day}: set another --date, or --tickers."
        )
    is_over = has_ended(day, utc_datetime(clock.wall()))
    repaired = _backfilled_rows(layout, day)
    results: list[Completeness] = []
    try:
        for ticker in wanted:
            result = Completeness(ticker, day.isoformat(), "unavailable")
            if market_of(ticker) is not Market.US:
                result = replace(result, reason=US_STOCKS_ONLY)
            elif not is_over:
                result = replace(result, reason=DAY_NOT_OVER)
            else:
                result = _compare(layout, rest, result, whole, listened.get(ticker, []), clock)
                result = replace(result, repaired=repaired.get(ticker, 0))
                result = _with_state(result, min_share)
            results.append(result)
            yield result
    finally:
        if results:
            completeness.write_completeness(layout, day.isoformat(), results)


def _compare(
    layout: Layout,
    rest: RestClient,
    result: Completeness,
    whole: TimeSpan,
    listened: Sequence[TimeSpan],
    clock: Clock,
) -> Completeness:
    day = date.fromisoformat(result.date)
    try:
        responses = fetch_ticks(rest, result.symbol, day)
        ticks = matching.tick_table(((page.t, page.p, page.v, page.c) for page in responses), None)
    except TicksNotFound:
        return replace(result, reason=reason_to_wait(day, clock))
    except InvalidResponse as error:
        return replace(result, reason=str(error))
    if not len(ticks):
        return replace(result, reason=UNKNOWN_TICKER)
    trades = matching.published_ticks(layout, result.symbol, [whole])
    counted = completeness.compare_day(
        result.symbol, result.date, ticks, trades, widen_spans(listened, -EDGE_US)
    )
    return replace(counted, listened_seconds=_seconds(whole, listened))


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


def _listened_or_repaired(layout: Layout, day: date) -> dict[str, list[TimeSpan]]:
    """When each US stock was listened to; repaired gaps count."""
    # A New York date ends on the next UTC date.
    dates = [day.isoformat(), (day + timedelta(days=1)).isoformat()]
    listened = {
        ticker: spans
        for ticker, spans in listened_spans(layout.root, (), dates).items()
        if market_of(ticker) is Market.US
    }
    for fill in gap_fills.read_gap_fills(FolderSource(layout)).values():
        if fill.date == day.isoformat() and fill.state == "repaired":
            listened.setdefault(fill.symbol, []).append((fill.start, fill.end))
    return {ticker: merge_spans(spans) for ticker, spans in listened.items()}


def _backfilled_rows(layout: Layout, day: date) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for fill in gap_fills.read_gap_fills(FolderSource(layout)).values():
        if fill.date == day.isoformat():
            rows[fill.symbol] += fill.rows
    return rows


def _seconds(whole: TimeSpan, spans: Sequence[TimeSpan]) -> float:
    return covered_length(whole, spans) / US_PER_SECOND
