"""Gaps of past sessions are repaired with ticks from REST, as far as they can be had.

1. What died is recovered, an import that was under way among it.
2. What of each gap is missing, while the market was open and no other session listened, is asked
   of REST, a ticker and New York date at a time: REST tells whole days only. What it told is kept
   until its date is published: a run that was killed asks no day twice.
3. What is published already is taken away, as a multiset: trades that came late into the gap, and
   what another repair brought. A second on either side is looked at, too, for what was under way
   when the connection ended.
4. The rest of a date becomes an import (``ingest.importing``), never passed off as captured. Which
   gaps it repairs is written before, and counts as soon as it is there (``store.repairs``).

A gap is asked for again until it is repaired, or the server has no such ticks for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby
from typing import Any

from stocktrace.deadline import SYSTEM_CLOCK, Clock
from stocktrace.errors import BadAnswer, FeedError, NoSuchTicks, NotInPlan, StoreError
from stocktrace.feed import wire
from stocktrace.feed.rest import Rest
from stocktrace.feed.ticks import ticks_of
from stocktrace.ingest.foreign import Row
from stocktrace.ingest.importing import Origin, import_rows
from stocktrace.record.delivery import deliver
from stocktrace.record.recovery import recover
from stocktrace.repair.errands import Errand, Plan, digest_of, plan, why_not, widened
from stocktrace.store import lock, matching, outbox, repairs
from stocktrace.store.layout import Layout
from stocktrace.store.matching import Ticks
from stocktrace.store.names import new_import
from stocktrace.store.repairs import Repair

#: What the report of a repair tells as its source.
SOURCE = "Finnhub REST /stock/tick"
NO_PLAN = "the plan of the key has no ticks"
AWAY = "the server could not be asked"

_NS_PER_MS = 10**6


def repair_gaps(layout: Layout, rest: Rest, clock: Clock = SYSTEM_CLOCK) -> Iterator[Repair]:
    """Repair what can be repaired; gives what became of gaps, date by date, if that is news.

    Raises:
        KeyRefused, NotInPlan, ServerAway: nothing more can be asked; what was told is published.
        StoreError: another process is repairing, or a file is damaged.
    """
    try:
        with lock.held(layout.lock("repair"), {}):
            recover(layout, clock)
            repairs.forget_unborn(layout)
            todo = plan(layout, clock)
            _forget_staged(layout, todo.errands)
            yield from todo.news
            yield from _Run(layout, rest, clock, todo).all()
    except BlockingIOError:
        raise StoreError(
            "Another process is repairing this folder: wait until it is done."
        ) from None


class _Run:
    """One repair of a data folder, which is locked."""

    def __init__(self, layout: Layout, rest: Rest, clock: Clock, todo: Plan) -> None:
        self._layout = layout
        self._rest = rest
        self._clock = clock
        self._errands = todo.errands
        self._asked = {one.key: one for one in todo.settled}
        self._asked |= {one.key: one for errand in todo.errands for one, _ in errand.parts}

    def all(self) -> Iterator[Repair]:
        """Do all errands, a date at a time."""
        self._save()
        left = list(self._errands)
        for day, some in groupby(self._errands, key=lambda errand: errand.day):
            fetched: list[tuple[Errand, Ticks]] = []
            failure: FeedError | None = None
            ended: list[Repair] = []
            for errand in some:
                try:
                    fetched.append((errand, self._fetch(errand)))
                except NoSuchTicks:
                    ended += errand.ended("unavailable", why_not(day, self._clock))
                except BadAnswer as error:
                    ended += errand.ended("open", str(error))
                except FeedError as error:  # it would be the same for all others
                    failure = error
                    break
                left.remove(errand)
            ended += self._publish(day, fetched)
            if failure is not None:
                state: repairs.State = "open"
                reason = AWAY
                if isinstance(failure, NotInPlan):
                    state, reason = "unavailable", NO_PLAN
                ended += [one for errand in left for one in errand.ended(state, reason)]
            self._asked |= {one.key: one for one in ended}
            self._save()
            yield from ended
            if failure is not None:
                raise failure

    def _fetch(self, errand: Errand) -> Ticks:
        path = self._layout.staged_ticks(errand.digest)
        kept = repairs.staged(path)
        if kept is None:
            told = ticks_of(self._rest, errand.ticker, errand.day)
            pages = ((page.t, page.p, page.v, page.c) for page in told)
            kept = matching.ticks(pages, errand.stretches)
            repairs.stage(path, kept)
        return kept

    def _publish(self, day: date, fetched: Sequence[tuple[Errand, Ticks]]) -> list[Repair]:
        """Import what is missing; all gaps of ``fetched`` are repaired then."""
        layout, missing = self._layout, list[tuple[str, Ticks]]()
        ended: list[Repair] = []
        for errand, ticks in fetched:
            ours = matching.published(layout, errand.ticker, errand.stretches)
            lacking = matching.lacking(ticks, ours)
            if len(lacking):
                missing.append((errand.ticker, lacking))
            ended += [
                repair.now("repaired", "", matching.count(lacking, widened(part)))
                for repair, part in errand.parts
            ]
        if missing:
            ended = self._import(day, missing, ended)
        for errand, _ in fetched:
            layout.staged_ticks(errand.digest).unlink(missing_ok=True)
        return ended

    def _import(
        self, day: date, missing: Sequence[tuple[str, Ticks]], ended: list[Repair]
    ) -> list[Repair]:
        layout = self._layout
        digest = digest_of(repr((day.isoformat(), sorted(one.key for one in ended))))
        session = new_import(matching.first(missing) * _NS_PER_MS, digest)
        ended = [one.now("repaired", "", one.rows, session) for one in ended]
        repairs.write(layout.repair(session), ended)
        facts = {"source": SOURCE, "date": day.isoformat(), "content": digest}
        origin = Origin(digest, facts, f"gaps of {day} repaired from {SOURCE}")
        blocks = (map(_row, rows) for rows in matching.in_order(missing))
        report = import_rows(layout, origin, blocks, self._clock)
        if report is not None and not report.balanced:
            raise StoreError(f"{session}: {'; '.join(report.differences())}.")
        if report is not None and layout.lake:
            outbox.put(layout, session, layout.repair(session))
            deliver(layout, report, self._clock)
        return ended

    def _save(self) -> None:
        """What no import tells of."""
        repairs.write(self._layout.asked, (one for one in self._asked.values() if not one.source))


def _forget_staged(layout: Layout, errands: Sequence[Errand]) -> None:
    wanted = {layout.staged_ticks(errand.digest) for errand in errands}
    for path in layout.staged_ticks("*").parent.glob("[0-9a-f]*.parquet"):
        if path not in wanted:
            path.unlink()


def _row(tick: dict[str, Any]) -> Row:
    """A tick as a frame that came when it happened: REST tells no time of receipt."""
    time, codes = tick["ts_event"], tick["conditions"].split() or None
    trade = {"c": codes, "p": tick["price"], "s": tick["symbol"], "t": time, "v": tick["volume"]}
    return time * _NS_PER_MS, wire.frame_of(trade)
