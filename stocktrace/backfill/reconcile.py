"""How complete a day is: what is published of it, beside the ticks that REST has.

REST has more than the live feed sends (the full SIP), lacks some, and tells no time of receipt; so
a share may differ, and what happened within a second of a gap's edge is not judged. Only what was
listened to can be missing: the rest of a day is counted, and not blamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta

from stocktrace.backfill import completeness, matching
from stocktrace.backfill.completeness import Completeness
from stocktrace.backfill.plan import (
    DAY_NOT_OVER,
    EDGE_US,
    RECORDED_ELSEWHERE,
    UNKNOWN_TICKER,
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
    """The last New York date on which US stocks have ended trading."""
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
    """How complete a New York date is, ticker by ticker; the table on disk is written at the end.

    Without ``tickers`` those of US stocks that some session had. ``least`` is the share that makes
    a day complete: of the ticks that were listened to, and of the trades that are among the ticks.

    Raises:
        UsageError: there was no market that day, or no session.
        KeyRefused, NotInPlan, ServerAway: nothing more can be asked; what was found is written.
        StoreError: a file is damaged.
    """
    hours = us_extended_session(day)
    if hours is None:
        raise UsageError(f"The US market was closed on {day}: there is nothing to compare with.")
    whole = epoch_us(hours.opens), epoch_us(hours.closes)
    heard = _explained_tickers(layout, day)
    wanted = list(tickers) or [
        ticker for ticker, spans in sorted(heard.items()) if _seconds(whole, spans)
    ]
    if not wanted:
        raise UsageError(
            f"No session listened to a US stock on {day}: give another --date, or name --tickers."
        )
    over = has_ended(day, utc_datetime(clock.wall()))
    repaired = _backfilled_rows(layout, day)
    found: list[Completeness] = []
    try:
        for ticker in wanted:
            one = Completeness(ticker, day.isoformat(), "unavailable")
            if market_of(ticker) is not Market.US:
                one = replace(one, reason=RECORDED_ELSEWHERE)
            elif not over:
                one = replace(one, reason=DAY_NOT_OVER)
            else:
                one = _compare(layout, rest, one, whole, heard.get(ticker, []), clock)
                one = _completeness_state(replace(one, repaired=repaired.get(ticker, 0)), min_share)
            found.append(one)
            yield one
    finally:
        if found:
            completeness.write_completeness(layout, day.isoformat(), found)


def _compare(
    layout: Layout,
    rest: RestClient,
    one: Completeness,
    whole: TimeSpan,
    heard: Sequence[TimeSpan],
    clock: Clock,
) -> Completeness:
    day = date.fromisoformat(one.date)
    try:
        told = fetch_ticks(rest, one.symbol, day)
        ticks = matching.tick_table(((page.t, page.p, page.v, page.c) for page in told), None)
    except TicksNotFound:
        return replace(one, reason=reason_to_wait(day, clock))
    except InvalidResponse as error:
        return replace(one, reason=str(error))
    if not len(ticks):
        return replace(one, reason=UNKNOWN_TICKER)
    ours = matching.published_ticks(layout, one.symbol, [whole])
    counted = completeness.compare_day(
        one.symbol, one.date, ticks, ours, widen_spans(heard, -EDGE_US)
    )
    return replace(counted, listened_seconds=_seconds(whole, heard))


def _completeness_state(one: Completeness, min_share: float) -> Completeness:
    if one.state == "unavailable":
        return one
    if one.trades_unmatched > one.trades * (1 - min_share):
        told = f"{one.trades_unmatched:,} of {one.trades:,} trades are not among the ticks"
        return replace(one, state="different", reason=told)
    if not one.ticks_listened:
        return replace(one, state="unheard", reason="nobody listened while there were ticks")
    if one.ticks_matched < one.ticks_listened * min_share:
        lost = one.ticks_listened - one.ticks_matched
        told = f"{lost:,} of {one.ticks_listened:,} ticks that were listened to are missing"
        return replace(one, state="incomplete", reason=told)
    return one


def _explained_tickers(layout: Layout, day: date) -> dict[str, list[TimeSpan]]:
    """When each US stock was listened to, or is as if it had been, for a gap was repaired."""
    # A date of New York ends on the next one of UTC.
    dates = [day.isoformat(), (day + timedelta(days=1)).isoformat()]
    found = {
        ticker: spans
        for ticker, spans in listened_spans(layout.root, (), dates).items()
        if market_of(ticker) is Market.US
    }
    for repair in gap_fills.read_gap_fills(FolderSource(layout)).values():
        if repair.date == day.isoformat() and repair.state == "repaired":
            found.setdefault(repair.symbol, []).append((repair.start, repair.end))
    return {ticker: merge_spans(spans) for ticker, spans in found.items()}


def _backfilled_rows(layout: Layout, day: date) -> dict[str, int]:
    found: dict[str, int] = {}
    for repair in gap_fills.read_gap_fills(FolderSource(layout)).values():
        if repair.date == day.isoformat():
            found[repair.symbol] = found.get(repair.symbol, 0) + repair.rows
    return found


def _seconds(whole: TimeSpan, spans: Sequence[TimeSpan]) -> float:
    return covered_length(whole, spans) / US_PER_SECOND
