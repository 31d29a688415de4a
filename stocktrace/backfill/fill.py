"""Filling of gaps in past sessions with ticks from REST.

1. Crashed sessions are recovered first, an interrupted import among them.
2. The missing part of each gap (market open, no other session listening) is fetched, a ticker and
   New York date at a time: REST only has whole days. Fetched ticks are staged until their date is
   published, so that a killed run fetches no day twice.
3. Published trades are removed from them, as a multiset: late trades in the gap, and those of other
   backfills. A second at both edges is compared too, for trades that were on their way when the
   connection ended.
4. The rest of a date becomes an import (``importing``), never passed off as captured. The gaps that
   it fills are written first, and count once the import exists (``query.gap_fills``).

A gap is requested again until it is repaired, or the server will never have its ticks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any

import pyarrow as pa

from stocktrace.backfill import matching
from stocktrace.backfill.matching import TickTable
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
    ConversionError,
    FeedError,
    InvalidResponse,
    PlanForbidden,
    StoreError,
    TicksNotFound,
)
from stocktrace.feed import protocol
from stocktrace.feed.rest import RestClient
from stocktrace.importing.csv_source import TimedFrame
from stocktrace.importing.importer import ImportOrigin, import_frames
from stocktrace.intervals import widen_spans
from stocktrace.query import gap_fills
from stocktrace.query.gap_fills import GapFill
from stocktrace.record.publish import upload_session
from stocktrace.record.recovery import recover
from stocktrace.store import lock, outbox
from stocktrace.store.layout import Layout
from stocktrace.store.names import new_import
from stocktrace.store.parquet import publish_table, read_table
from stocktrace.trade import Trade
from stocktrace.units import NS_PER_MS

#: The source in the report of a backfill.
SOURCE = "Finnhub REST /stock/tick"
NO_PLAN = "the plan of the key has no ticks"
SERVER_UNAVAILABLE = "the server did not answer"
# Ticks that are Python objects at a time.
_BATCH_ROWS = 50_000


def fill_gaps(layout: Layout, rest: RestClient, clock: Clock = SYSTEM_CLOCK) -> Iterator[GapFill]:
    """Fill the gaps of all sessions; yields the gaps whose state changed, date by date.

    Raises:
        KeyRefused, PlanForbidden, ServerUnavailable: nothing more can be fetched; what was fetched
            is published.
        StoreError: another process is filling gaps, or a file is damaged.
    """
    try:
        with lock.hold_lock(layout.lock("repair"), {}):
            recover(layout, clock)
            gap_fills.delete_orphaned_fills(layout)
            plan = plan_fills(layout, clock)
            _delete_staged(layout, plan.tasks)
            yield from plan.changed
            yield from _FillRun(layout, rest, clock).run(plan)
    except BlockingIOError:
        raise StoreError(
            "Another process is filling gaps of this folder: wait until it is done."
        ) from None


@dataclass(slots=True)
class _FillRun:
    """One run over a data folder, whose lock is held."""

    layout: Layout
    rest: RestClient
    clock: Clock

    def run(self, plan: FillPlan) -> Iterator[GapFill]:
        """Run all tasks, a date at a time."""
        fills = {fill.key: fill for fill in plan.decided}
        fills |= {fill.key: fill for task in plan.tasks for fill, _ in task.parts}
        self._save_requests(fills.values())
        left = list(plan.tasks)
        for day, tasks in groupby(plan.tasks, key=lambda task: task.day):
            fetched: list[tuple[FetchTask, TickTable]] = []
            failure: FeedError | None = None
            ended: list[GapFill] = []
            for task in tasks:
                try:
                    fetched.append((task, self._fetch(task)))
                except TicksNotFound:
                    ended += task.fills_as("unavailable", reason_to_wait(day, self.clock))
                except InvalidResponse as error:
                    ended += task.fills_as("open", str(error))
                except FeedError as error:  # all other tasks would fail in the same way
                    failure = error
                    break
                left.remove(task)
            ended += self._publish(day, fetched)
            if failure is not None:
                for task in left:
                    if isinstance(failure, PlanForbidden):
                        ended += task.fills_as("unavailable", NO_PLAN)
                    else:
                        ended += task.fills_as("open", SERVER_UNAVAILABLE)
            fills |= {fill.key: fill for fill in ended}
            self._save_requests(fills.values())
            yield from ended
            if failure is not None:
                raise failure

    def _save_requests(self, fills: Iterable[GapFill]) -> None:
        unfilled = (fill for fill in fills if not fill.source)  # by an import
        gap_fills.write_gap_fills(self.layout.fill_requests, unfilled)

    def _fetch(self, task: FetchTask) -> TickTable:
        path = self.layout.staged_ticks(task.digest)
        with contextlib.suppress(ConversionError):  # missing or damaged: fetch it
            return read_table(path, matching.TICK_SCHEMA)
        ticks = matching.fetch_tick_table(self.rest, task.ticker, task.day, task.spans)
        publish_table(ticks, path)
        return ticks

    def _publish(self, day: date, fetched: Sequence[tuple[FetchTask, TickTable]]) -> list[GapFill]:
        """Import the missing ticks; all gaps of ``fetched`` are repaired then."""
        tables: list[TickTable] = []
        fills: list[GapFill] = []
        for task, ticks in fetched:
            published = matching.published_ticks(self.layout, task.ticker, task.spans)
            missing = ticks.filter(pa.array(matching.find_missing(ticks, published)))
            if len(missing):
                symbols = pa.repeat(pa.scalar(task.ticker), len(missing))
                tables.append(missing.append_column("symbol", symbols))
            for fill, spans in task.parts:
                rows = matching.filter_within(missing, widen_spans(spans, EDGE_US)).sum()
                fills.append(fill.with_state("repaired", "", int(rows)))
        if tables:
            fills = self._import(day, pa.concat_tables(tables).sort_by("ts_event"), fills)
        for task, _ in fetched:
            self.layout.staged_ticks(task.digest).unlink(missing_ok=True)
        return fills

    def _import(self, day: date, missing: TickTable, fills: list[GapFill]) -> list[GapFill]:
        """Import ``missing``, sorted and with ``symbol``; returns the gaps with their session."""
        layout = self.layout
        digest = text_digest(repr((day.isoformat(), sorted(fill.key for fill in fills))))
        session = new_import(missing["ts_event"][0].as_py() * NS_PER_MS, digest)
        fills = [fill.with_state("repaired", "", fill.rows, session) for fill in fills]
        gap_fills.write_gap_fills(layout.gap_fills(session), fills)
        facts = {"source": SOURCE, "date": day.isoformat(), "content": digest}
        origin = ImportOrigin(digest, facts, f"gaps of {day} repaired from {SOURCE}")
        batches = missing.to_batches(_BATCH_ROWS)
        blocks = (map(_tick_frame, batch.to_pylist()) for batch in batches)
        report = import_frames(layout, origin, blocks, self.clock)
        if report is not None and not report.balanced:
            raise StoreError(f"{session}: {'; '.join(report.differences())}.")
        if report is not None and layout.lake:
            outbox.add_to_outbox(layout, session, layout.gap_fills(session))
            upload_session(layout, report, self.clock)
        return fills


def _delete_staged(layout: Layout, tasks: Sequence[FetchTask]) -> None:
    wanted = {layout.staged_ticks(task.digest) for task in tasks}
    for path in layout.staged_ticks("*").parent.glob("[0-9a-f]*.parquet"):
        if path not in wanted:
            path.unlink()


def _tick_frame(tick: dict[str, Any]) -> TimedFrame:
    """A tick as a frame that was received when it happened: REST has no receive times."""
    time, codes = tick["ts_event"], tuple(tick["conditions"].split()) or None
    trade = Trade(tick["symbol"], tick["price"], time, tick["volume"], codes)
    return time * NS_PER_MS, protocol.encode([trade])
