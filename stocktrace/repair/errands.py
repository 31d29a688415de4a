"""What is to be asked of REST for the gaps of past sessions, and what need not be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from stocktrace.calendar import NEW_YORK, Market, market_of, us_extended
from stocktrace.deadline import SYSTEM_CLOCK, Clock, utc
from stocktrace.repair.missing import Stretch, by_date, together, without
from stocktrace.store import repairs
from stocktrace.store.coverage import gaps_in, listened
from stocktrace.store.layout import Layout
from stocktrace.store.repairs import Repair
from stocktrace.store.shelf import Folder
from stocktrace.words import counted

ELSEWHERE = "REST has ticks of US stocks only"
CLOSED = "the market was closed"
HEARD = "another session listened"
NOT_OVER = "not yet loaded: the day is not over"
NOT_LOADED = "not yet loaded"
NO_SUCH = "no such ticks"

# Trades reach us about 0.1 s after they happened (FINNHUB.md): so near the edges of a gap some were
# lost, and some came all the same.
_EDGE_US = 1_000_000
# A day that is not loaded by then never will be.
_LOADED_WITHIN = timedelta(days=7)
_NS_PER_US = 1000


@dataclass(frozen=True, slots=True)
class Errand:
    """A day's ticks of a ticker, for gaps of any session: what of each is missing."""

    day: date
    ticker: str
    parts: tuple[tuple[Repair, tuple[Stretch, ...]], ...]

    @property
    def stretches(self) -> list[Stretch]:
        """What is to be looked at, edges included."""
        return [stretch for _, part in self.parts for stretch in widened(part)]

    @property
    def digest(self) -> str:
        """The same ticker, day and gaps have the same."""
        parts = [(repair.key, stretches) for repair, stretches in self.parts]
        return digest_of(repr((self.ticker, self.day.isoformat(), parts)))

    def ended(self, state: repairs.State, reason: str) -> list[Repair]:
        """All of its gaps with this end."""
        return [repair.now(state, reason) for repair, _ in self.parts]


def widened(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Stretches with a second more on either side."""
    return [(start - _EDGE_US, end + _EDGE_US) for start, end in stretches]


def narrowed(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Stretches with a second less on either side: what was surely heard."""
    return [(start + _EDGE_US, end - _EDGE_US) for start, end in stretches]


@dataclass(frozen=True, slots=True)
class Plan:
    """What became of gaps without asking, what of that is ``news``, and the errands, by date."""

    settled: list[Repair]
    news: list[Repair]
    errands: list[Errand]


def plan(layout: Layout, clock: Clock = SYSTEM_CLOCK) -> Plan:
    """Look at the gaps of all sessions that ended.

    Raises:
        ConversionError: a file of coverage or repairs is damaged.
    """
    known = repairs.read_all(Folder(layout))
    gaps = gaps_in(layout.root)
    heard = {
        ticker: together((begin // _NS_PER_US, end // _NS_PER_US) for begin, end in spans)
        for ticker, spans in listened(layout.root, ()).items()
    }
    now = utc(clock.wall())
    settled: list[Repair] = []
    wanted: dict[tuple[date, str], list[tuple[Repair, tuple[Stretch, ...]]]] = {}
    for gap in gaps:
        _, ticker, start, end = gap
        if market_of(ticker) is not Market.US:
            settled.append(Repair(*gap, "", 1).now("unavailable", ELSEWHERE))
            continue
        days = by_date([(start, end)])
        if not days:
            settled.append(Repair(*gap, "", 1).now("unneeded", CLOSED))
        for day, hours in days.items():
            repair = Repair(*gap, day.isoformat(), len(days))
            before = known.get(repair.key, repair)
            missing = tuple(
                piece for each in hours for piece in without(each, heard.get(ticker, []))
            )
            if before.state == "repaired" or before.reason == NO_SUCH:
                settled.append(before)
            elif not missing:
                settled.append(repair.now("unneeded", HEARD))
            elif not is_over(day, now):
                settled.append(repair.now("unavailable", NOT_OVER))
            else:
                wanted.setdefault((day, ticker), []).append((before, missing))
    errands = [Errand(*where, tuple(parts)) for where, parts in sorted(wanted.items())]
    return Plan(settled, [one for one in settled if known.get(one.key) != one], errands)


def put_off(todo: Plan) -> list[str]:
    """Which gaps are asked for later, when, and why: a sentence for each New York date."""
    days: dict[str, set[tuple[str, int, int]]] = {}
    for one in todo.settled:
        if one.reason == NOT_OVER:
            days.setdefault(one.date, set()).add((one.session, one.start, one.end))
    return [
        f"{counted(len(gaps), 'gap')} of {day} put off until {_closes(day):%Y-%m-%d %H:%M} UTC: "
        "REST has the ticks of a day only when US stocks have ended trading"
        for day, gaps in sorted(days.items())
    ]


def _closes(day: str) -> datetime:
    hours = us_extended(date.fromisoformat(day))
    assert hours is not None  # noqa: S101 - nothing is put off on a holiday
    return hours.closes


def why_not(day: date, clock: Clock) -> str:
    """Why the server has no ticks of a New York date."""
    now = utc(clock.wall()).astimezone(NEW_YORK)
    if not is_over(day, now):
        return NOT_OVER
    return NOT_LOADED if now.date() - day <= _LOADED_WITHIN else NO_SUCH


def is_over(day: date, now: datetime) -> bool:
    """Whether US stocks have ended trading on a New York date."""
    hours = us_extended(day)
    return hours is None or hours.closes <= now


def digest_of(text: str) -> str:
    """32 hexadecimal digits that stand for ``text``."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
