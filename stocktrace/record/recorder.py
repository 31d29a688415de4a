"""The recorder: writes batches from all queues to disk, and seals each window that has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stocktrace.latency import LatencyHistogram
from stocktrace.record.intake import Intake, OpenWindow, TickerQueue, WindowCounts
from stocktrace.sessions.report import Books, TickerBooks
from stocktrace.settings import Settings
from stocktrace.store.batch import Chunk
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import SegmentWriter, TickerCounts
from stocktrace.units import utc_datetime


@dataclass(frozen=True, slots=True)
class SealedWindow:
    """A window whose segments are sealed on disk, with its books.

    If ``spilled`` is not empty, the segments of those tickers are missing and the books are not
    final: ``publish_window`` then rebuilds the window from its tape first.
    """

    window: WindowId
    books: Books
    tickers: Mapping[str, TickerBooks]
    errors: Mapping[str, int]
    latency: LatencyHistogram
    spilled: frozenset[str] = frozenset()
    #: Some tickers that nobody asked for.
    others: Sequence[str] = ()


def finish_counts(
    counts: WindowCounts, writer: SegmentWriter, spilled: frozenset[str] = frozenset()
) -> SealedWindow:
    """Make the books of a window from what was received and what was written."""
    books = counts.books
    tickers: dict[str, TickerBooks] = {}
    for name, count in counts.received.items():
        written = writer.counts.get(name, TickerCounts())
        last = utc_datetime(counts.last_trades[name])
        tickers[name] = TickerBooks(count, written.recorded, written.quarantined, last=last)
    for name, count in counts.undecoded.items():
        ticker = tickers.setdefault(name, TickerBooks())
        ticker.trades += count
        ticker.quarantined += count
    books.recorded = sum(ticker.recorded for ticker in tickers.values())
    books.quarantined = sum(ticker.quarantined for ticker in tickers.values())
    return SealedWindow(
        writer.window, books, tickers, counts.errors, writer.lags, spilled, counts.others
    )


@dataclass(slots=True)
class Recorder:
    """Drains the queues of ``intake``; ``run`` is the function of its own thread.

    The intake wakes it for each batch. While the feed is busy with something else, a batch is
    written after twice ``flush_interval``, or a few times that with thousands of tickers.
    ``on_sealed`` is called on the recorder's thread.
    """

    layout: Layout
    intake: Intake
    settings: Settings
    on_sealed: Callable[[SealedWindow], None]
    lags: LatencyHistogram = field(default_factory=LatencyHistogram)
    #: Median latency of the last batch, in ms after the trades' own times.
    latest_lag_ms: float = 0.0
    #: The writer of the current window; its counts are not in any books yet.
    writer: SegmentWriter | None = None
    #: ``run`` writes nothing more: the rest stays on the tape.
    is_abandoned: bool = False
    _ended: bool = False

    def finish(self) -> None:
        """After the last frame: let ``run`` write and seal the rest and return."""
        self._ended = True
        self.intake.wake.set()

    def run(self) -> None:
        """Record until ``finish`` is called."""
        try:
            self._run()
        finally:
            if self.writer is not None:  # after an error
                self.writer.close()

    def _run(self) -> None:
        windows = self.intake.windows
        while windows:
            self.intake.wake.wait(2 * self.settings.flush_interval * self.intake.batch_scale)
            self.intake.wake.clear()
            if self.is_abandoned:
                return
            # Check before draining the queues: rows that come after it are for the next round.
            ended = self._ended or len(windows) > 1
            self._write_pending(windows[0])
            if ended:
                self._seal_window(windows[0])
                windows.popleft()
                self.intake.wake.set()  # the next window may have ended, too

    def _write_pending(self, window: OpenWindow) -> None:
        """Write all waiting rows of ``window``, in batches."""
        writer = self.writer
        if writer is None:
            writer = self.writer = SegmentWriter(self.layout, window.id)
        refused = window.counts.refused_rows
        if refused:
            count = len(refused)  # the feed's thread may append more
            writer.quarantine(refused[:count])
            del refused[:count]
        later: list[TickerQueue] = []
        batch: list[tuple[str, list[Chunk]]] = []
        rows = 0
        for _ in range(len(self.intake.listed)):
            queue = self.intake.listed.popleft()
            queue.listed = False
            chunks, count = queue.take(window)
            if queue.rows:
                later.append(queue)
            if chunks:
                batch.append((queue.ticker, chunks))
                rows += count
            # A small rest would cost as much as a full batch.
            if rows >= self.settings.batch_rows <= self.intake.pending_rows - rows:
                self._write(writer, batch, rows)
                batch, rows = [], 0
        if batch:
            self._write(writer, batch, rows)
        window.has_segments |= bool(writer.counts)
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

    def _seal_window(self, window: OpenWindow) -> None:
        writer = self.writer or SegmentWriter(self.layout, window.id)
        self.writer = None
        spilled = frozenset(window.spilled)
        window.tape.close()  # first: nothing that is kept has rows that the tape could still lose
        writer.seal(spilled)
        self.lags.merge(writer.lags)
        self.on_sealed(finish_counts(window.counts, writer, spilled))
