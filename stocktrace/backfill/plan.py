"""The plan of a backfill: the ticks to fetch from REST, and the gaps that need none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from stocktrace.calendar import NEW_YORK, Market, market_of, us_extended_session
from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.intervals import TimeSpan, split_by_date, subtract_spans, widen_spans
from stocktrace.query import gap_fills
from stocktrace.query.coverage import listened_spans, read_all_gaps
from stocktrace.query.gap_fills import GapFill
from stocktrace.store.layout import Layout
from stocktrace.store.source import FolderSource
from stocktrace.text import count_of
from stocktrace.units import US_PER_SECOND, utc_datetime

US_STOCKS_ONLY = "REST has ticks of US stocks only"
MARKET_CLOSED = "the market was closed"
OTHER_SESSION = "another session listened"
DAY_NOT_OVER = "not yet loaded: the day has not ended"
NOT_LOADED = "not yet loaded"
UNKNOWN_TICKER = "no such ticks"

# Trades arrive about 0.1 s after they happened (FINNHUB.md): this near the edges of a gap, some are
# missing and some are not.
EDGE_US = US_PER_SECOND
# The server never loads a day later than this.
_LOADED_WITHIN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class FetchTask:
    """A day's ticks of a ticker to fetch, for gaps of any session with their missing spans."""

    day: date
    ticker: str
    parts: tuple[tuple[GapFill, tuple[TimeSpan, ...]], ...]

    @property
    def spans(self) -> list[TimeSpan]:
        """All missing spans with their edges."""
        return [span for _, spans in self.parts for span in widen_spans(spans, EDGE_US)]

    @property
    def digest(self) -> str:
        """A name: equal for the same ticker, day and gaps."""
        parts = [(fill.key, spans) for fill, spans in self.parts]
        return text_digest(repr((self.ticker, self.day.isoformat(), parts)))

    def fills_as(self, state: gap_fills.FillState, reason: str) -> list[GapFill]:
        """All its gaps in this state."""
        return [fill.with_state(state, reason) for fill, _ in self.parts]


@dataclass(frozen=True, slots=True)
class FillPlan:
    """Gaps decided without a fetch, those of them whose state changed, and the tasks by date."""

    decided: list[GapFill]
    changed: list[GapFill]
    tasks: list[FetchTask]


def plan_fills(layout: Layout, clock: Clock = SYSTEM_CLOCK) -> FillPlan:
    """Plan the backfill of all sessions that have ended.

    Raises:
        ConversionError: a file of coverage or of gap fills is damaged.
    """
    known = gap_fills.read_gap_fills(FolderSource(layout))
    listened = listened_spans(layout.root, ())
    now = utc_datetime(clock.wall())
    decided: list[GapFill] = []
    tasks: dict[tuple[date, str], list[tuple[GapFill, tuple[TimeSpan, ...]]]] = {}
    for gap in read_all_gaps(layout.root):
        _, ticker, start, end = gap
        if market_of(ticker) is not Market.US:
            decided.append(GapFill(*gap, "", 1).with_state("unavailable", US_STOCKS_ONLY))
            continue
        days = split_by_date([(start, end)])
        if not days:
            decided.append(GapFill(*gap, "", 1).with_state("unneeded", MARKET_CLOSED))
        for day, hours in days.items():
            fill = GapFill(*gap, day.isoformat(), len(days))
            before = known.get(fill.key, fill)
            missing = tuple(
                span for open_ in hours for span in subtract_spans(open_, listened.get(ticker, []))
            )
            if before.state == "repaired" or before.reason == UNKNOWN_TICKER:
                decided.append(before)
            elif not missing:
                decided.append(fill.with_state("unneeded", OTHER_SESSION))
            elif not has_ended(day, now):
                decided.append(fill.with_state("unavailable", DAY_NOT_OVER))
            else:
                tasks.setdefault((day, ticker), []).append((before, missing))
    return FillPlan(
        decided,
        [fill for fill in decided if known.get(fill.key) != fill],
        [FetchTask(*key, tuple(parts)) for key, parts in sorted(tasks.items())],
    )


def describe_postponed(plan: FillPlan) -> list[str]:
    """Say for each New York date which gaps are requested later, when, and why."""
    days: dict[str, set[tuple[str, int, int]]] = {}
    for fill in plan.decided:
        if fill.reason == DAY_NOT_OVER:
            days.setdefault(fill.date, set()).add((fill.session, fill.start, fill.end))
    sentences = []
    for day, gaps in sorted(days.items()):
        hours = us_extended_session(date.fromisoformat(day))
        assert hours is not None  # noqa: S101 - nothing is postponed on a holiday
        sentences.append(
            f"{count_of(len(gaps), 'gap')} of {day} postponed until "
            f"{hours.closes:%Y-%m-%d %H:%M} UTC: "
            "REST has the ticks of a day only after the extended hours of US stocks"
        )
    return sentences


def reason_to_wait(day: date, clock: Clock) -> str:
    """Return why the server has no ticks of a New York date."""
    now = utc_datetime(clock.wall()).astimezone(NEW_YORK)
    if not has_ended(day, now):
        return DAY_NOT_OVER
    return NOT_LOADED if now.date() - day <= _LOADED_WITHIN else UNKNOWN_TICKER


def has_ended(day: date, now: datetime) -> bool:
    """Return True if the extended hours of US stocks have ended on a New York date."""
    hours = us_extended_session(day)
    return hours is None or hours.closes <= now


def text_digest(text: str) -> str:
    """Return a digest of 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
