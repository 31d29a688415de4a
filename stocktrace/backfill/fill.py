"""Gaps of past sessions are repaired with ticks from REST, as far as they can be had.

1. What died is recovered, an import that was under way among it.
2. What of each gap is missing, while the market was open and no other session listened, is asked
   of REST, a ticker and New York date at a time: REST tells whole days only. What it told is kept
   until its date is published: a run that was killed asks no day twice.
3. What is published already is taken away, as a multiset: trades that came late into the gap, and
   what another repair brought. A second on either side is looked at, too, for what was under way
   when the connection ended.
4. The rest of a date becomes an import (``importing.importer``), never passed off as captured.
   Which gaps it repairs is written before, and counts as soon as it is there
   (``store.gap_fills``).

A gap is asked for again until it is repaired, or the server has no such ticks for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stocktrace.backfill import matching
from stocktrace.backfill.matching import TickPages
from stocktrace.backfill.plan import (
    EDGE_US,
    FetchTask,
    FillPlan,
    plan_fills,
    reason_to_wait,
    text_digest,
)
from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import (
    FeedError,
    InvalidResponse,
    PlanForbidden,
    StoreError,
    TicksNotFound,
)
from stocktrace.feed import protocol
from stocktrace.feed.rest import RestClient, fetch_ticks
from stocktrace.importing.csv_source import TimedFrame
from stocktrace.importing.importer import import_frames
from stocktrace.importing.session_tapes import ImportOrigin
from stocktrace.intervals import widen_spans
from stocktrace.record.recovery import recover
from stocktrace.record.upload import upload_session
from stocktrace.store import files, gap_fills, lock, outbox
from stocktrace.store.gap_fills import GapFill
from stocktrace.store.layout import Layout
from stocktrace.store.names import new_import
from stocktrace.trade import Trade
from stocktrace.units import NS_PER_MS

#: What the report of a repair tells as its source.
SOURCE = "Finnhub REST /stock/tick"
NO_PLAN = "the plan of the key has no ticks"
SERVER_UNAVAILABLE = "the server could not be asked"


def fill_gaps(layout: Layout, rest: RestClient, clock: Clock = SYSTEM_CLOCK) -> Iterator[GapFill]:
    """Repair what can be repaired; gives what became of gaps, date by date, if that is news.

    Raises:
        KeyRefused, NotInPlan, ServerAway: nothing more can be asked; what was told is published.
        StoreError: another process is repairing, or a file is damaged.
    """
    try:
        with lock.hold_lock(layout.lock("repair"), {}):
            recover(layout, clock)
            gap_fills.delete_orphaned_fills(layout)
            todo = plan_fills(layout, clock)
            _delete_staged(layout, todo.tasks)
            yield from todo.changed
            yield from _FillRun(layout, rest, clock, todo).all()
    except BlockingIOError:
        raise StoreError(
            "Another process is repairing this folder: wait until it is done."
        ) from None


class _FillRun:
    """One repair of a data folder, which is locked."""

    def __init__(self, layout: Layout, rest: RestClient, clock: Clock, todo: FillPlan) -> None:
        self._layout = layout
        self._rest = rest
        self._clock = clock
        self._errands = todo.tasks
        self._asked = {one.key: one for one in todo.decided}
        self._asked |= {one.key: one for errand in todo.tasks for one, _ in errand.parts}

    def all(self) -> Iterator[GapFill]:
        """Do all errands, a date at a time."""
        self._save()
        left = list(self._errands)
        for day, some in groupby(self._errands, key=lambda errand: errand.day):
            fetched: list[tuple[FetchTask, TickPages]] = []
            failure: FeedError | None = None
            ended: list[GapFill] = []
            for errand in some:
                try:
                    fetched.append((errand, self._fetch(errand)))
                except TicksNotFound:
                    ended += errand.has_ended("unavailable", reason_to_wait(day, self._clock))
                except InvalidResponse as error:
                    ended += errand.has_ended("open", str(error))
                except FeedError as error:  # it would be the same for all others
                    failure = error
                    break
                left.remove(errand)
            ended += self._publish(day, fetched)
            if failure is not None:
                state: gap_fills.FillState = "open"
                reason = SERVER_UNAVAILABLE
                if isinstance(failure, PlanForbidden):
                    state, reason = "unavailable", NO_PLAN
                ended += [one for errand in left for one in errand.has_ended(state, reason)]
            self._asked |= {one.key: one for one in ended}
            self._save()
            yield from ended
            if failure is not None:
                raise failure

    def _fetch(self, errand: FetchTask) -> TickPages:
        path = self._layout.staged_ticks(errand.digest)
        kept = _read_staged_ticks(path)
        if kept is None:
            told = fetch_ticks(self._rest, errand.ticker, errand.day)
            pages = ((page.t, page.p, page.v, page.c) for page in told)
            kept = matching.tick_table(pages, errand.spans)
            _stage_ticks(path, kept)
        return kept

    def _publish(self, day: date, fetched: Sequence[tuple[FetchTask, TickPages]]) -> list[GapFill]:
        """Import what is missing; all gaps of ``fetched`` are repaired then."""
        layout, missing = self._layout, list[tuple[str, TickPages]]()
        ended: list[GapFill] = []
        for errand, ticks in fetched:
            ours = matching.published_ticks(layout, errand.ticker, errand.spans)
            lacking = matching.missing_ticks(ticks, ours)
            if len(lacking):
                missing.append((errand.ticker, lacking))
            ended += [
                repair.with_state(
                    "repaired", "", matching.count_within(lacking, widen_spans(part, EDGE_US))
                )
                for repair, part in errand.parts
            ]
        if missing:
            ended = self._import(day, missing, ended)
        for errand, _ in fetched:
            layout.staged_ticks(errand.digest).unlink(missing_ok=True)
        return ended

    def _import(
        self, day: date, missing: Sequence[tuple[str, TickPages]], ended: list[GapFill]
    ) -> list[GapFill]:
        layout = self._layout
        digest = text_digest(repr((day.isoformat(), sorted(one.key for one in ended))))
        session = new_import(matching.first_tick_us(missing) * NS_PER_MS, digest)
        ended = [one.with_state("repaired", "", one.rows, session) for one in ended]
        gap_fills.write_gap_fills(layout.gap_fills(session), ended)
        facts = {"source": SOURCE, "date": day.isoformat(), "content": digest}
        origin = ImportOrigin(digest, facts, f"gaps of {day} repaired from {SOURCE}")
        blocks = (map(_tick_frame, rows) for rows in matching.sort_ticks(missing))
        report = import_frames(layout, origin, blocks, self._clock)
        if report is not None and not report.balanced:
            raise StoreError(f"{session}: {'; '.join(report.differences())}.")
        if report is not None and layout.lake:
            outbox.add_to_outbox(layout, session, layout.gap_fills(session))
            upload_session(layout, report, self._clock)
        return ended

    def _save(self) -> None:
        """What no import tells of."""
        gap_fills.write_gap_fills(
            self._layout.fill_requests, (one for one in self._asked.values() if not one.source)
        )


def _delete_staged(layout: Layout, errands: Sequence[FetchTask]) -> None:
    wanted = {layout.staged_ticks(errand.digest) for errand in errands}
    for path in layout.staged_ticks("*").parent.glob("[0-9a-f]*.parquet"):
        if path not in wanted:
            path.unlink()


def _stage_ticks(path: Path, ticks: TickPages) -> None:
    """Keep the ticks of one day until its date is published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked_temporary(path) as temporary:
        with files.disk_errors(temporary):
            pq.write_table(ticks, temporary, compression="zstd", write_page_checksum=True)
        files.publish_file(temporary, path)


def _read_staged_ticks(path: Path) -> TickPages | None:
    """Return the staged ticks, or ``None`` if they are missing or damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError):
        return None  # they can be fetched again
    return table if table.schema.equals(matching.TICK_SCHEMA) else None


def _tick_frame(tick: dict[str, Any]) -> TimedFrame:
    """A tick as a frame that was received when it happened: REST has no receive times."""
    time, codes = tick["ts_event"], tuple(tick["conditions"].split()) or None
    trade = Trade(tick["symbol"], tick["price"], time, tick["volume"], codes)
    return time * NS_PER_MS, protocol.encode([trade])
