"""A watch-list over several keys: which shard captures which ticker, and who takes over.

Finnhub allows one connection per key and a limited number of tickers per connection. Shards are
balanced by the trade rates of earlier sessions: the busiest ticker first, each to the shard with
the lowest load (Graham's LPT rule: no shard gets more than 4/3 of the best split's). Time in which
no shard listened to a ticker is written into the coverage of the lake that the shards share.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from stocktrace.errors import UsageError
from stocktrace.intervals import CoverageInterval, subtract_spans
from stocktrace.query.coverage import listened_spans
from stocktrace.sessions.report import SessionReport
from stocktrace.store import outbox
from stocktrace.store.coverage import write_coverage
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.store.names import utc_date
from stocktrace.text import count_of
from stocktrace.units import NS_PER_DAY, NS_PER_US

log = logging.getLogger(__name__)

#: The limit of Finnhub's free plan for one connection.
SYMBOL_LIMIT = 50
# A week of a fleet of four.
_MAX_REPORTS = 20
# A run takes ten seconds to start: a session that ends sooner is not worth it.
_MIN_REMAINING_S = 30.0

#: The states of a shard's run are those of Prefect.
FAILED_STATES = {"CRASHED", "FAILED"}
_WAITING_STATES = {"SCHEDULED", "PENDING"}
_ENDED_STATES = {"COMPLETED", "CANCELLED", *FAILED_STATES}


@dataclass(slots=True)
class Shard:
    """The tickers of one key, and their expected trades a second."""

    tickers: list[str] = field(default_factory=list)
    rate: float = 0.0


def measured_rates(reports: Iterable[SessionReport]) -> dict[str, float]:
    """Return trades a second by ticker, over the sessions that captured it from their start."""
    trades: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        if report.ended is None:
            continue
        for ticker in set(report.tickers) - report.added_at.keys():
            trades[ticker] += report.ticker_books(ticker).trades
            seconds[ticker] += (report.ended - report.started).total_seconds()
    return {ticker: trades[ticker] / seconds[ticker] for ticker in trades if seconds[ticker] > 0}


def read_rates(lake: str) -> dict[str, float]:
    """Return the rates in the last sessions of a lake; ``LakeError`` if it cannot be read."""
    return measured_rates(map(SessionReport.decode, Lake.open(lake).reports(_MAX_REPORTS)))


def split_tickers(
    tickers: Sequence[str], keys: int, rates: Mapping[str, float], limit: int = SYMBOL_LIMIT
) -> list[Shard]:
    """Split ``tickers`` into ``keys`` shards of at most ``limit`` tickers; 0 means no limit.

    ``UsageError`` if there are too few keys, or more keys than tickers.
    """
    if limit and len(tickers) > keys * limit:
        raise UsageError(
            f"{len(tickers)} tickers need {-(-len(tickers) // limit)} keys at {limit} each, "
            f"and there are {keys}."
        )
    if keys > len(tickers):
        raise UsageError(
            f"{keys} keys for {count_of(len(tickers), 'ticker')}: give at most as many keys as "
            "tickers."
        )
    shards = [Shard() for _ in range(keys)]
    spread_tickers(tickers, shards, rates, limit)
    return shards


def spread_tickers(
    tickers: Iterable[str],
    shards: Sequence[Shard],
    rates: Mapping[str, float],
    limit: int = SYMBOL_LIMIT,
) -> tuple[list[list[str]], list[str]]:
    """Add ``tickers`` to ``shards``; return what each shard got, and the tickers without room.

    A ticker without a known rate counts as one of median rate.
    """
    median = statistics.median(rates.values()) if rates else 1.0
    rate = {ticker: rates.get(ticker, median) for ticker in tickers}
    added: list[list[str]] = [[] for _ in shards]
    without_room = []
    for ticker in sorted(rate, key=lambda name: (-rate[name], name)):
        indexes = [
            index for index, shard in enumerate(shards) if not limit or len(shard.tickers) < limit
        ]
        if not indexes:
            without_room.append(ticker)
            continue
        # Of equal loads the shard with fewer tickers: rates of 0 would all be added to the first.
        index = min(indexes, key=lambda each: (shards[each].rate, len(shards[each].tickers)))
        shards[index].tickers.append(ticker)
        shards[index].rate += rate[ticker]
        added[index].append(ticker)
    return added, without_room


@dataclass(slots=True)
class ShardRun:
    """A shard and the run that captures it, which has an id once the server has answered.

    ``unsent`` are tickers that it took over and has not been sent yet. ``restarted`` says that it
    replaces a run that failed. ``key`` keeps a second request from starting a second run.
    """

    deployment: str
    shard: Shard
    restarted: bool = False
    run: UUID | None = None
    name: str = "(not started)"
    state: str = "SCHEDULED"
    unsent: list[str] = field(default_factory=list)
    key: str = field(default_factory=lambda: str(uuid4()))

    @property
    def has_ended(self) -> bool:
        """Return whether the run has ended, in any state."""
        return self.state in _ENDED_STATES


@dataclass(slots=True)
class Fleet:
    """The shards of a watch-list until ``end``, and their take-overs.

    ``lost_at`` says when a ticker that lost its shard was certainly captured last (epoch ns);
    ``abandoned`` are the tickers that no other shard took.
    """

    end: datetime
    limit: int
    rates: dict[str, float]
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    runs: list[ShardRun] = field(default_factory=list)
    lost_at: dict[str, int] = field(default_factory=dict)
    abandoned: set[str] = field(default_factory=set)

    def add(self, deployment: str, shard: Shard, *, restarted: bool = False) -> None:
        """Add a shard, to be started as a run of ``deployment``."""
        self.runs.append(ShardRun(deployment, shard, restarted))

    @property
    def active_runs(self) -> list[ShardRun]:
        """The runs that have not ended."""
        return [run for run in self.runs if not run.has_ended]

    @property
    def unsent(self) -> list[str]:
        """The tickers that were reassigned and not sent yet."""
        return [ticker for run in self.active_runs for ticker in run.unsent]

    @property
    def remaining_s(self) -> float:
        """Seconds until the end."""
        return (self.end - datetime.now(UTC)).total_seconds()

    def is_overdue(self, state: str) -> bool:
        """Return whether a run in ``state`` has waited for a worker until the fleet's end."""
        return state in _WAITING_STATES and self.remaining_s <= 0

    def update(self, run: ShardRun, state: str, alive_at: int) -> None:
        """Record the state of a run, last alive at ``alive_at`` (epoch ns), and reassign tickers.

        The tickers of a failed run are reassigned, and those that any ended run was not sent.
        """
        run.state = state
        if not run.has_ended:
            return
        is_worth_it = self.remaining_s > _MIN_REMAINING_S
        orphans = run.shard.tickers if is_worth_it and state in FAILED_STATES else run.unsent
        for ticker in orphans:
            self.lost_at.setdefault(ticker, alive_at)
        if is_worth_it and orphans:
            self._reassign(run, orphans)
        elif orphans:
            self._abandon(run, orphans)

    def _reassign(self, lost: ShardRun, orphans: list[str]) -> None:
        """Move tickers to running shards with room, and the rest to a new shard."""
        running = [run for run in self.runs if run.state == "RUNNING"]
        shards, shard = [run.shard for run in running], lost.shard
        reassigned, without_room = spread_tickers(orphans, shards, self.rates, self.limit)
        shard.tickers = [ticker for ticker in shard.tickers if ticker not in set(orphans)]
        shard.rate = shard.rate if shard.tickers else 0.0
        lost.unsent = []
        for heir, tickers in zip(running, reassigned, strict=True):
            if tickers:
                heir.unsent = heir.unsent + tickers
                count = count_of(len(tickers), "ticker")
                log.warning("shard %s is lost: %s takes %s", lost.name, heir.name, count)
        if without_room and lost.restarted:
            # Whatever ended a shard that replaced a failed one would end its successor, too.
            self._abandon(lost, without_room)
        elif without_room:
            count = count_of(len(without_room), "ticker")
            log.warning("shard %s is lost: a new run takes %s", lost.name, count)
            (successor,) = split_tickers(without_room, 1, self.rates, self.limit)
            self.add(lost.deployment, successor, restarted=True)

    def _abandon(self, run: ShardRun, tickers: list[str]) -> None:
        self.abandoned |= set(tickers)
        log.error("shard %s is lost: no other shard takes %s", run.name, " ".join(tickers))


def write_uncovered_gaps(
    lake: str, session: str, lost_at: Mapping[str, int], end: int, reason: str
) -> int:
    """Write the time in which tickers were not captured into a lake's coverage; count the gaps.

    ``lost_at`` says when each ticker was certainly captured last, and ``end`` when the fleet ended
    (epoch ns). ``session`` names the coverage: writing it again replaces it. ``LakeError`` if the
    lake cannot be used.
    """
    first = min(lost_at.values(), default=end) // NS_PER_DAY
    dates = [utc_date(day * NS_PER_DAY) for day in range(first, end // NS_PER_DAY + 1)]
    listened = listened_spans(lake, list(lost_at), dates)
    gaps = [
        CoverageInterval(ticker, start * NS_PER_US, stop * NS_PER_US, reason)
        for ticker, since in lost_at.items()
        for start, stop in subtract_spans(
            (since // NS_PER_US, end // NS_PER_US), listened.get(ticker, [])
        )
    ]
    if gaps:
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(Path(folder), lake=lake)
            write_coverage(layout, session, gaps)  # which also adds it to the outbox
            outbox.send_outbox(layout, session)
    return len(gaps)
