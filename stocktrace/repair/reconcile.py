"""How complete a day is: what is published of it, beside the ticks that REST has.

REST has more than the live feed sends (the full SIP), lacks some, and tells no time of receipt; so
a share may differ, and what happened within a second of a gap's edge is not judged. Only what was
listened to can be missing: the rest of a day is counted, and not blamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

from stocktrace.calendar import NEW_YORK, Market, market_of, us_extended
from stocktrace.deadline import SYSTEM_CLOCK, Clock, utc
from stocktrace.errors import BadAnswer, NoSuchTicks, UsageError
from stocktrace.feed.rest import Rest
from stocktrace.feed.ticks import ticks_of
from stocktrace.repair.errands import (
    ELSEWHERE,
    NO_SUCH,
    NOT_OVER,
    is_over,
    narrowed,
    why_not,
)
from stocktrace.repair.missing import Stretch, together, without
from stocktrace.store import completeness, matching, repairs
from stocktrace.store.completeness import Completeness
from stocktrace.store.coverage import listened
from stocktrace.store.layout import Layout
from stocktrace.store.shelf import Folder

_US_PER_SECOND = 10**6
_NS_PER_US = 1000


def last_day(clock: Clock = SYSTEM_CLOCK) -> date:
    """The last New York date on which US stocks have ended trading."""
    now = utc(clock.wall()).astimezone(NEW_YORK)
    day = now.date()
    while us_extended(day) is None or not is_over(day, now):
        day -= timedelta(days=1)
    return day


def reconcile(
    layout: Layout,
    rest: Rest,
    day: date,
    tickers: Sequence[str] = (),
    least: float = 0.99,
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
    hours = us_extended(day)
    if hours is None:
        raise UsageError(f"The US market was closed on {day}: there is nothing to compare with.")
    whole = _us(hours.opens), _us(hours.closes)
    heard = _accounted(layout, day)
    wanted = list(tickers) or [
        ticker for ticker, spans in sorted(heard.items()) if _seconds(whole, spans)
    ]
    if not wanted:
        raise UsageError(
            f"No session listened to a US stock on {day}: give another --date, or name --tickers."
        )
    over = is_over(day, utc(clock.wall()))
    repaired = _repaired(layout, day)
    found: list[Completeness] = []
    try:
        for ticker in wanted:
            one = Completeness(ticker, day.isoformat(), "unavailable")
            if market_of(ticker) is not Market.US:
                one = replace(one, reason=ELSEWHERE)
            elif not over:
                one = replace(one, reason=NOT_OVER)
            else:
                one = _compare(layout, rest, one, whole, heard.get(ticker, []), clock)
                one = _judge(replace(one, repaired=repaired.get(ticker, 0)), least)
            found.append(one)
            yield one
    finally:
        if found:
            completeness.write(layout, day.isoformat(), found)


def _compare(
    layout: Layout,
    rest: Rest,
    one: Completeness,
    whole: Stretch,
    heard: Sequence[Stretch],
    clock: Clock,
) -> Completeness:
    day = date.fromisoformat(one.date)
    try:
        told = ticks_of(rest, one.symbol, day)
        ticks = matching.ticks(((page.t, page.p, page.v, page.c) for page in told), None)
    except NoSuchTicks:
        return replace(one, reason=why_not(day, clock))
    except BadAnswer as error:
        return replace(one, reason=str(error))
    if not len(ticks):
        return replace(one, reason=NO_SUCH)
    ours = matching.published(layout, one.symbol, [whole])
    counted = completeness.compare(one.symbol, one.date, ticks, ours, narrowed(heard))
    return replace(counted, listened=_seconds(whole, heard))


def _judge(one: Completeness, least: float) -> Completeness:
    if one.state == "unavailable":
        return one
    if one.unknown > one.trades * (1 - least):
        told = f"{one.unknown:,} of {one.trades:,} trades are not among the ticks"
        return replace(one, state="different", reason=told)
    if not one.heard:
        return replace(one, state="unheard", reason="nobody listened while there were ticks")
    if one.found < one.heard * least:
        lost = one.heard - one.found
        told = f"{lost:,} of {one.heard:,} ticks that were listened to are missing"
        return replace(one, state="incomplete", reason=told)
    return one


def _accounted(layout: Layout, day: date) -> dict[str, list[Stretch]]:
    """When each US stock was listened to, or is as if it had been, for a gap was repaired."""
    # A date of New York ends on the next one of UTC.
    dates = [day.isoformat(), (day + timedelta(days=1)).isoformat()]
    found = {
        ticker: [(start // _NS_PER_US, end // _NS_PER_US) for start, end in spans]
        for ticker, spans in listened(layout.root, (), dates).items()
        if market_of(ticker) is Market.US
    }
    for repair in repairs.read_all(Folder(layout)).values():
        if repair.date == day.isoformat() and repair.state == "repaired":
            found.setdefault(repair.symbol, []).append((repair.start, repair.end))
    return {ticker: together(spans) for ticker, spans in found.items()}


def _repaired(layout: Layout, day: date) -> dict[str, int]:
    found: dict[str, int] = {}
    for repair in repairs.read_all(Folder(layout)).values():
        if repair.date == day.isoformat():
            found[repair.symbol] = found.get(repair.symbol, 0) + repair.rows
    return found


def _seconds(whole: Stretch, spans: Sequence[Stretch]) -> float:
    left = sum(end - start for start, end in without(whole, spans))
    return (whole[1] - whole[0] - left) / _US_PER_SECOND


def _us(when: datetime) -> int:
    return round(when.timestamp() * _US_PER_SECOND)
