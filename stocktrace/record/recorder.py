"""The recorder: takes batches from all queues to disk and seals each window when it has rolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stocktrace.latency import LatencyHistogram
from stocktrace.record.intake import Intake, OpenWindow, TickerQueue
from stocktrace.record.window_counts import WindowCounts
from stocktrace.sessions.report import Books, TickerBooks
from stocktrace.store.batch import Chunk
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import SegmentWriter
from stocktrace.units import utc_datetime


@dataclass(frozen=True, slots=True)
class SealedWindow:
    """A window whose segments stand sealed on disk, with its books.

    The segments of ``spilled`` are not there yet, nor the window's final books: ``publish`` has
    them from the tape first.
    """

    part: WindowId
    books: Books
    tickers: Mapping[str, TickerBooks]
    errors: Mapping[str, int]
    latency: LatencyHistogram
    spilled: frozenset[str] = frozenset()


def finish_counts(
    receipts: WindowCounts, writer: SegmentWriter, spilled: frozenset[str] = frozenset()
) -> SealedWindow:
    """The books of a window, from what was received and what was written."""
    books = receipts.books
    tickers: dict[str, TickerBooks] = {}
    for name, count in receipts.received.items():
        tally = writer.counts.get(name)
        tickers[name] = TickerBooks(trades=count, last=utc_datetime(receipts.last_trades[name]))
        if tally is not None:
            tickers[name].recorded = tally.recorded
            tickers[name].quarantined = tally.quarantined
    for name, count in receipts.undecoded.items():
        one = tickers.setdefault(name, TickerBooks())
        one.trades += count
        one.quarantined += count
    books.recorded = sum(one.recorded for one in tickers.values())
    books.quarantined = sum(one.quarantined for one in tickers.values())
    return SealedWindow(writer.part, books, tickers, receipts.errors, writer.lags, spilled)


@dataclass(slots=True)
class Recorder:
    """Drains the queues of ``intake``; ``run`` belongs to a thread of its own.

    A batch is written when the intake wakes it; at the latest after twice ``flush_interval_s``, when
    the feed is busy otherwise, with thousands of tickers after a few times that. ``on_sealed`` is
    called on the recorder's thread.
    """

    layout: Layout
    intake: Intake
    batch_rows: int
    flush_interval_s: float
    on_sealed: Callable[[SealedWindow], None]
    lags: LatencyHistogram = field(default_factory=LatencyHistogram)
    #: How late the trades of the last batch were: median, ms after the exchange's time.
    latest_lag_ms: float = 0.0
    #: Of the window that is being written; what it counts is in no books yet.
    writer: SegmentWriter | None = None
    _ended: bool = False

    def finish(self) -> None:
        """No more frames come: write and seal what is left, then return from ``run``."""
        self._ended = True
        self.intake.wake.set()

    def run(self) -> None:
        """Record until ``end``."""
        recordings = self.intake.recordings
        while recordings:
            self.intake.wake.wait(2 * self.flush_interval_s * self.intake.set_tickers)
            self.intake.wake.clear()
            # Asked before the queues are drained: what comes between belongs to the next round.
            closed = self._ended or len(recordings) > 1
            self._write_pending(recordings[0])
            if closed:
                self._seal_window(recordings[0])
                recordings.popleft()
                self.intake.wake.set()  # there may be a next one, closed already

    def _write_pending(self, recording: OpenWindow) -> None:
        """Write all that waits of ``recording``, in batches."""
        writer = self.writer
        if writer is None:
            writer = self.writer = SegmentWriter(self.layout, recording.part)
        refused = recording.receipts.refused_rows
        if refused:
            kept = len(refused)  # the feed's thread may append meanwhile
            writer.quarantine(refused[:kept])
            del refused[:kept]
        later: list[TickerQueue] = []
        batch: list[tuple[str, list[Chunk]]] = []
        rows = 0
        for _ in range(len(self.intake.listed)):
            queue = self.intake.listed.popleft()
            queue.listed = False
            chunks = queue.take(recording)
            if queue.rows:
                later.append(queue)
            if chunks:
                batch.append((queue.ticker, chunks))
                rows += sum([len(some) for _, some in chunks])
            # What is left over for another batch would cost what a whole one does.
            if rows >= self.batch_rows <= self.intake.pending_rows - rows:
                self._write(writer, batch, rows)
                batch, rows = [], 0
        if batch:
            self._write(writer, batch, rows)
        for queue in later:
            if not queue.listed:
                queue.listed = True
                self.intake.listed.append(queue)

    def _write(
        self, writer: SegmentWriter, batch: list[tuple[str, list[Chunk]]], rows: int
    ) -> None:
        writer.write(batch)
        self.latest_lag_ms = writer.latest_lag_ms
        self.intake.taken += rows

    def _seal_window(self, recording: OpenWindow) -> None:
        writer = self.writer or SegmentWriter(self.layout, recording.part)
        self.writer = None
        spilled = frozenset(recording.spilled)
        writer.seal(except_tickers=spilled)
        recording.tape.close()
        self.lags.merge(writer.lags)
        self.on_sealed(finish_counts(recording.receipts, writer, spilled))
