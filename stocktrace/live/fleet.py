"""A watch-list over several keys: which ticker goes where, and who takes over from whom.

Finnhub allows one connection per key and so many tickers a connection. Shards are balanced by the
rate at which tickers came in earlier sessions, the busiest first, each to the shard that has least
(Graham's LPT rule: no shard gets more than 4/3 of what the best split would give it).
"""
# MERGED """What no shard of a fleet listened to: named in the coverage of the lake that they share."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import UsageError
from stocktrace.intervals import CoverageInterval
from stocktrace.query.coverage import listened_spans
from stocktrace.sessions.report import SessionReport
from stocktrace.store import outbox
from stocktrace.store.coverage import write_coverage
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.store.window import NS_PER_DAY, utc_date
from stocktrace.text import count_of

#: What Finnhub's free plan takes on one connection.
SYMBOL_LIMIT = 50
# A week of a fleet of four.
_MAX_REPORTS = 20


@dataclass(slots=True)
class Shard:
    """The tickers of one key, and what they come to in trades a second."""

    tickers: list[str] = field(default_factory=list)
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Who takes tickers that a shard lost: each survivor its part, a new shard, or nobody."""

    reassigned: list[list[str]]
    new_runs: Shard | None
    unassigned: list[str]


def measured_rates(reports: Iterable[SessionReport]) -> dict[str, float]:
    """Trades a second by ticker, over all sessions that it was in from the start."""
    trades: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        if report.ended is None:
            continue
        for ticker in set(report.tickers) - report.added.keys():
            trades[ticker] += report.ticker(ticker).trades
            seconds[ticker] += (report.ended - report.started).total_seconds()
    return {ticker: trades[ticker] / seconds[ticker] for ticker in trades if seconds[ticker] > 0}


def earlier_reports(lake: str) -> dict[str, float]:
    """The rates in the last sessions of a lake.

    Raises:
        LakeError: it cannot be read.
    """
    return measured_rates(
        SessionReport.decode(text) for text in Lake.open(lake).reports(_MAX_REPORTS)
    )


def split_tickers(
    tickers: Sequence[str], keys: int, known: Mapping[str, float], limit: int = SYMBOL_LIMIT
) -> list[Shard]:
    """``tickers`` over ``keys``; ``limit`` is how many a key takes, 0: any number.

    Raises:
        UsageError: there are too few keys, or more than tickers.
    """
    if limit and len(tickers) > keys * limit:
        raise UsageError(
            f"{len(tickers)} tickers need {-(-len(tickers) // limit)} keys at {limit} each, "
            f"and there are {keys}."
        )
    if keys > len(tickers):
        raise UsageError(
            f"{keys} keys for {count_of(len(tickers), 'ticker')}: give at most as many."
        )
    shards = [Shard() for _ in range(keys)]
    spread_tickers(tickers, shards, known, limit)
    return shards


def spread_tickers(
    tickers: Iterable[str],
    shards: Sequence[Shard],
    known: Mapping[str, float],
    limit: int = SYMBOL_LIMIT,
) -> tuple[list[list[str]], list[str]]:
    """Add ``tickers`` to ``shards``; gives what each of them got, and what had no room.

    A ticker of which no rate is known counts as a middling one.
    """
    usual = statistics.median(known.values()) if known else 1.0
    rate = {ticker: known.get(ticker, usual) for ticker in tickers}
    got: list[list[str]] = [[] for _ in shards]
    left = []
    for ticker in sorted(rate, key=lambda each: (-rate[each], each)):
        room = [at for at, one in enumerate(shards) if not limit or len(one.tickers) < limit]
        if not room:
            left.append(ticker)
            continue
        # Of equal loads the one with fewer tickers: rates of 0 would all go to the first.
        at = min(room, key=lambda each: (shards[each].rate, len(shards[each].tickers)))
        shards[at].tickers.append(ticker)
        shards[at].rate += rate[ticker]
        got[at].append(ticker)
    return got, left


def plan_take_over(
    lost: Shard,
    orphans: Sequence[str],
    survivors: Sequence[Shard],
    known: Mapping[str, float],
    limit: int = SYMBOL_LIMIT,
    *,
    again: bool,
) -> TakeOver:
    """Take ``orphans`` from ``lost`` and give them to ``survivors`` with room, else to a new shard.

    There is no new one if ``lost`` was such itself (``again``): what ends it would end that, too.
    """
    taken, left = spread_tickers(orphans, survivors, known, limit)
    lost.tickers = [ticker for ticker in lost.tickers if ticker not in set(orphans)]
    lost.rate = lost.rate if lost.tickers else 0.0
    if again or not left:
        return TakeOver(taken, None, left)
    (anew,) = split_tickers(left, 1, known, limit)
    return TakeOver(taken, anew, [])


def write_uncovered_gaps(
    lake: str, session: str, lost: Mapping[str, int], until: int, reason: str
) -> int:
    """Write into the coverage of a lake when tickers of lost shards were not listened to.

    Args:
        lake: Its URL.
        session: The name under which it is written; writing it again replaces it.
        lost: When each of the tickers was heard last, as far as is known (epoch ns).
        until: When the fleet ended (epoch ns).
        reason: Why.

    Returns:
        How many gaps there are.

    Raises:
        LakeError: it cannot be used.
    """
    first = min(lost.values(), default=until) // NS_PER_DAY
    dates = [utc_date(day * NS_PER_DAY) for day in range(first, until // NS_PER_DAY + 1)]
    heard = listened_spans(lake, list(lost), dates)
    gaps = [
        CoverageInterval(ticker, start, end, reason)
        for ticker, since in lost.items()
        for start, end in _uncovered_spans(heard.get(ticker, []), since, until)
    ]
    if gaps:
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(Path(folder), lake=lake)
            write_coverage(layout, session, gaps)  # which has it sent
            outbox.send_outbox(layout, session)
    return len(gaps)


def _uncovered_spans(
    heard: Iterable[tuple[int, int]], since: int, until: int
) -> list[tuple[int, int]]:
    """What ``heard``, stretches sorted by start, leaves out from ``since`` to ``until``."""
    found = []
    for start, end in heard:
        if since < min(start, until):
            found.append((since, min(start, until)))
        since = max(since, end)
    if since < until:
        found.append((since, until))
    return found
