"""What is to be asked of REST for the gaps of past sessions, and what need not be asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from stocktrace.calendar import NEW_YORK, Market, market_of, us_extended_session
from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.intervals import TimeSpan, split_by_date, subtract_spans, widen_spans
from stocktrace.query.coverage import listened_spans, read_all_gaps
from stocktrace.store import gap_fills
from stocktrace.store.gap_fills import GapFill
from stocktrace.store.layout import Layout
from stocktrace.store.source import FolderSource
from stocktrace.text import count_of
from stocktrace.units import US_PER_SECOND, utc_datetime

RECORDED_ELSEWHERE = "REST has ticks of US stocks only"
CLOSED = "the market was closed"
NOTHING_MISSING = "another session listened"
DAY_NOT_OVER = "not yet loaded: the day is not over"
NOT_LOADED = "not yet loaded"
UNKNOWN_TICKER = "no such ticks"

# Trades reach us about 0.1 s after they happened (FINNHUB.md): so near the edges of a gap some were
# lost, and some came all the same.
EDGE_US = US_PER_SECOND
# A day that is not loaded by then never will be.
_LOADED_WITHIN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class FetchTask:
    """A day's ticks of a ticker, for gaps of any session: what of each is missing."""

    day: date
    ticker: str
    parts: tuple[tuple[GapFill, tuple[TimeSpan, ...]], ...]

    @property
    def spans(self) -> list[TimeSpan]:
        """What is to be looked at, edges included."""
        return [stretch for _, part in self.parts for stretch in widen_spans(part, EDGE_US)]

    @property
    def digest(self) -> str:
        """The same ticker, day and gaps have the same."""
        parts = [(repair.key, stretches) for repair, stretches in self.parts]
        return text_digest(repr((self.ticker, self.day.isoformat(), parts)))

    def has_ended(self, state: gap_fills.FillState, reason: str) -> list[GapFill]:
        """All of its gaps with this end."""
        return [repair.with_state(state, reason) for repair, _ in self.parts]


@dataclass(frozen=True, slots=True)
class FillPlan:
    """What became of gaps without asking, what of that is ``news``, and the errands, by date."""

    decided: list[GapFill]
    changed: list[GapFill]
    tasks: list[FetchTask]


def plan_fills(layout: Layout, clock: Clock = SYSTEM_CLOCK) -> FillPlan:
    """Look at the gaps of all sessions that ended.

    Raises:
        ConversionError: a file of coverage or repairs is damaged.
    """
    known = gap_fills.read_gap_fills(FolderSource(layout))
    gaps = read_all_gaps(layout.root)
    heard = listened_spans(layout.root, ())
    now = utc_datetime(clock.wall())
    settled: list[GapFill] = []
    wanted: dict[tuple[date, str], list[tuple[GapFill, tuple[TimeSpan, ...]]]] = {}
    for gap in gaps:
        _, ticker, start, end = gap
        if market_of(ticker) is not Market.US:
            settled.append(GapFill(*gap, "", 1).with_state("unavailable", RECORDED_ELSEWHERE))
            continue
        days = split_by_date([(start, end)])
        if not days:
            settled.append(GapFill(*gap, "", 1).with_state("unneeded", CLOSED))
        for day, hours in days.items():
            repair = GapFill(*gap, day.isoformat(), len(days))
            before = known.get(repair.key, repair)
            missing = tuple(
                piece for each in hours for piece in subtract_spans(each, heard.get(ticker, []))
            )
            if before.state == "repaired" or before.reason == UNKNOWN_TICKER:
                settled.append(before)
            elif not missing:
                settled.append(repair.with_state("unneeded", NOTHING_MISSING))
            elif not has_ended(day, now):
                settled.append(repair.with_state("unavailable", DAY_NOT_OVER))
            else:
                wanted.setdefault((day, ticker), []).append((before, missing))
    errands = [FetchTask(*where, tuple(parts)) for where, parts in sorted(wanted.items())]
    return FillPlan(settled, [one for one in settled if known.get(one.key) != one], errands)


def postpone(todo: FillPlan) -> list[str]:
    """Which gaps are asked for later, when, and why: a sentence for each New York date."""
    days: dict[str, set[tuple[str, int, int]]] = {}
    for one in todo.decided:
        if one.reason == DAY_NOT_OVER:
            days.setdefault(one.date, set()).add((one.session, one.start, one.end))
    return [
        f"{count_of(len(gaps), 'gap')} of {day} put off until "
        f"{_market_close(day):%Y-%m-%d %H:%M} UTC: "
        "REST has the ticks of a day only when US stocks have ended trading"
        for day, gaps in sorted(days.items())
    ]


def _market_close(day: str) -> datetime:
    hours = us_extended_session(date.fromisoformat(day))
    assert hours is not None  # noqa: S101 - nothing is put off on a holiday
    return hours.closes


def reason_to_wait(day: date, clock: Clock) -> str:
    """Why the server has no ticks of a New York date."""
    now = utc_datetime(clock.wall()).astimezone(NEW_YORK)
    if not has_ended(day, now):
        return DAY_NOT_OVER
    return NOT_LOADED if now.date() - day <= _LOADED_WITHIN else UNKNOWN_TICKER


def has_ended(day: date, now: datetime) -> bool:
    """Whether US stocks have ended trading on a New York date."""
    hours = us_extended_session(day)
    return hours is None or hours.closes <= now


def text_digest(text: str) -> str:
    """32 hexadecimal digits that stand for ``text``."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
