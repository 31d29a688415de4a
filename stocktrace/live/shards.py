"""A watch-list over several keys: which ticker goes where, and who takes over from whom.

Finnhub allows one connection per key and so many tickers a connection. Shards are balanced by the
rate at which tickers came in earlier sessions, the busiest first, each to the shard that has least
(Graham's LPT rule: no shard gets more than 4/3 of what the best split would give it).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stocktrace.errors import UsageError
from stocktrace.report import Report
from stocktrace.store.lake import Lake
from stocktrace.words import counted

#: What Finnhub's free plan takes on one connection.
LIMIT = 50
# A week of a fleet of four.
_EARLIER = 20


@dataclass(slots=True)
class Shard:
    """The tickers of one key, and what they come to in trades a second."""

    tickers: list[str] = field(default_factory=list)
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Heirs:
    """Who takes tickers that a shard lost: each survivor its part, a new shard, or nobody."""

    taken: list[list[str]]
    anew: Shard | None
    nobody: list[str]


def rates(reports: Iterable[Report]) -> dict[str, float]:
    """Trades a second by ticker, over all sessions that it was in from the start."""
    trades: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        if report.ended is None:
            continue
        for ticker in set(report.tickers) - report.joined.keys():
            trades[ticker] += report.ticker(ticker).trades
            seconds[ticker] += (report.ended - report.started).total_seconds()
    return {ticker: trades[ticker] / seconds[ticker] for ticker in trades if seconds[ticker] > 0}


def earlier(lake: str) -> dict[str, float]:
    """The rates in the last sessions of a lake.

    Raises:
        LakeError: it cannot be read.
    """
    return rates(Report.decode(text) for text in Lake.open(lake).reports(_EARLIER))


def split(
    tickers: Sequence[str], keys: int, known: Mapping[str, float], limit: int = LIMIT
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
            f"{keys} keys for {counted(len(tickers), 'ticker')}: give at most as many."
        )
    shards = [Shard() for _ in range(keys)]
    spread(tickers, shards, known, limit)
    return shards


def spread(
    tickers: Iterable[str], shards: Sequence[Shard], known: Mapping[str, float], limit: int = LIMIT
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


def hand_over(
    lost: Shard,
    orphans: Sequence[str],
    survivors: Sequence[Shard],
    known: Mapping[str, float],
    limit: int = LIMIT,
    *,
    again: bool,
) -> Heirs:
    """Take ``orphans`` from ``lost`` and give them to ``survivors`` with room, else to a new shard.

    There is no new one if ``lost`` was such itself (``again``): what ends it would end that, too.
    """
    taken, left = spread(orphans, survivors, known, limit)
    lost.tickers = [ticker for ticker in lost.tickers if ticker not in set(orphans)]
    lost.rate = lost.rate if lost.tickers else 0.0
    if again or not left:
        return Heirs(taken, None, left)
    (anew,) = split(left, 1, known, limit)
    return Heirs(taken, anew, [])
