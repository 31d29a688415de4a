"""A capture while it runs: its threads, and the order in which they start and end.

Five threads, all started here or in ``feed/connection.py``: the *feed* reads the socket, appends
to the tape and fills the queues; the *recorder* empties them to disk; the *sync* thread has the
tape written through once a second; and the thread that called ``capture`` keeps the time, the
report and the audit log, and hands rolled windows to whoever publishes them. The fifth recovers
what dead sessions left, and is gone then. None dies alone: what kills one ends the capture and is
raised here, chained (a recovery that fails does so when the capture ends).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from stocktrace.deadline import Clock, Deadline
from stocktrace.errors import DiskFull, StocktraceError, StoreError
from stocktrace.feed.connection import Feed, FeedPolicy
from stocktrace.intake import Intake, Limits
from stocktrace.publish import Published
from stocktrace.recorder import Recorder, Sealed
from stocktrace.recovery import recover
from stocktrace.report import Report
from stocktrace.session import (
    Journal,
    Mailbox,
    Observer,
    at,
    gap_reports,
    lag_report,
    new_report,
)
from stocktrace.settings import Settings
from stocktrace.store import files
from stocktrace.store.audit import Audit
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout, Part
from stocktrace.store.tape import Mark
from stocktrace.store.window import RollPolicy
from stocktrace.trade import parse_tickers
from stocktrace.vigil import Vigil, silent

log = logging.getLogger(__name__)

# How often the control thread looks up: progress twice a second, a stop within that time.
BEAT_S = 0.5
# How often lag and silent tickers are looked for.
WATCH_S = 60.0
# The feed's share of the two seconds in which a capture ends, whatever the socket does.
STOP_FEED_S = 1.5
# What the recorder may take to write what waits; Prefect kills a cancelled flow after 30 s.
STOP_RECORDER_S = 15.0


class Result(Protocol):
    """What is to come of a window's publishing: a future of this process, or Prefect's."""

    def done(self) -> bool:
        """Whether ``result`` would return, or raise, at once."""

    def result(self) -> Published:
        """Wait for it, or raise why it failed."""


class Publisher(Protocol):
    """Publishes a rolled window in the background; called on the thread that called ``capture``."""

    def __call__(self, layout: Layout, part: Part, *, whole: bool) -> Result:
        """Begin; see ``publish``."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a capture stands, for who watches it."""

    session: str
    connected: bool
    elapsed_s: float
    left_s: float
    trades: int
    backlog: int
    reconnects: int
    lag_ms: float
    tickers: tuple[str, ...]
    per_ticker: dict[str, int]


class Handle:
    """Steers a running capture from another thread."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.reason = ""
        self._retarget: tuple[str, ...] | None = None

    def stop(self, reason: str = "stopped") -> None:
        """End the capture in order, as if its time were up."""
        self.reason = reason
        self.stopping.set()

    def retarget(self, tickers: Sequence[str]) -> None:
        """Change the tickers that are captured.

        Raises:
            TickerError: one is none.
        """
        self._retarget = parse_tickers(tickers)

    def take_retarget(self) -> tuple[str, ...] | None:
        """The tickers that were asked for since the last call, if any."""
        wanted, self._retarget = self._retarget, None
        return wanted


class _Thread(threading.Thread):
    """A thread that keeps what killed it, and wakes the control thread."""

    def __init__(self, name: str, work: Callable[[], None], mailbox: Mailbox) -> None:
        # A daemon: one that hangs in the system must not hold up the process's end.
        super().__init__(name=f"stocktrace-{name}", daemon=True)
        self._work = work
        self._mailbox = mailbox
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - kept, and raised by the control thread
            self.failure = error
            self._mailbox.put(lambda: None)


class Run:
    """One capture; call it once."""

    def __init__(
        self,
        layout: Layout,
        session: str,
        tickers: tuple[str, ...],
        key: str,
        settings: Settings,
        deadline: Deadline,
        clock: Clock,
    ) -> None:
        self._layout, self._settings, self._clock = layout, settings, clock
        self._deadline, self._began = deadline, clock.monotonic()
        self._mailbox: Mailbox = queue.SimpleQueue()
        stamp = clock.wall()
        self.report = new_report(session, tickers, stamp, settings.public())
        self._journal = Journal(layout, self.report, Audit(layout.audit, session, clock))
        self._intake = Intake(
            layout,
            session,
            RollPolicy(settings.roll_every, settings.roll_size),
            Limits(settings.queue_rows, settings.backlog_rows, settings.batch_rows),
            stamp,
            tickers,
        )
        first = Mark(stamp, "tape", {"connected": False, "tickers": tickers})
        self._journal.coverage.add(first)
        self._observer = Observer(self._intake, self._journal, self._mailbox, clock)
        self._feed = Feed(settings.url, key, tickers, self._observer, _policy(settings), clock)
        self._recorder = Recorder(
            layout, self._intake, settings.batch_rows, settings.flush_every, self._mail_sealed
        )
        self._recording = _Thread("recorder", self._recorder.run, self._mailbox)
        self._syncing = _Thread("sync", self._sync, self._mailbox)
        # Beside the capture, not before it: what is live comes only once.
        self._recovering = _Thread("recover", self._recover, self._mailbox)
        self._ended = threading.Event()
        self._end_is_marked = False
        self._interrupted = False
        self._vigil = Vigil()
        self._results: dict[str, Result] = {}
        self._failures: list[BaseException] = []

    def __call__(
        self, publisher: Publisher, watch: Callable[[Status], None], handle: Handle
    ) -> Report:
        """Capture until the deadline or until ``handle`` stops it; publish; give the report."""
        with _rare_collections():
            return self._capture(publisher, watch, handle)

    def _capture(
        self, publisher: Publisher, watch: Callable[[Status], None], handle: Handle
    ) -> Report:
        self._publisher = publisher
        report, journal = self.report, self._journal
        journal.audit("start", tickers=report.tickers, settings=report.settings)
        journal.save()
        self._recording.start()
        self._syncing.start()
        self._feed.start()
        self._recovering.start()
        try:
            self._keep_time(watch, handle)
            # The report on disk runs until all is published: killed before, it is recovered.
            state = "interrupted" if handle.stopping.is_set() else "complete"
            reason = handle.reason or "its time was up"
            self._stop()
            if state == "complete" and not journal.connected:
                state, reason = "failed", f"not connected at the end: {journal.lost}"
            self._collect(wait=True)
            self._recovering.join()
            self._raise_failures()
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            reason = str(error) if isinstance(error, Exception) else "interrupted"
            # Whoever interrupts does not wait for long: what is sealed now is published later.
            self._interrupted = not isinstance(error, Exception)
            self._stop()
            self._collect(wait=False)
            raise
        finally:
            report.state, report.reason = state, reason
            ended = self._clock.wall()
            report.ended = at(ended)
            if not self._end_is_marked:
                journal.coverage.died(self._intake.heard, "the capture failed")
            journal.coverage.close(ended)
            report.gaps = gap_reports(journal.coverage)
            write_coverage(self._layout, report.session, journal.coverage.intervals)
            report.lag = lag_report(self._recorder.lags)
            last = {ticker: at(stamp) for ticker, stamp in self._intake.last.items()}
            report.silent = silent(report.tickers, last, report.started, at(ended))
            journal.audit("end", state=report.state, reason=report.reason, books=report.books)
            journal.save()
        if report.state != "failed" and not report.balanced:
            report.state, report.reason = "failed", "; ".join(report.differences())
            journal.save()
        return report

    # --- while it runs -----------------------------------------------------------------------

    def _keep_time(self, watch: Callable[[Status], None], handle: Handle) -> None:
        beat = Deadline.after(0, self._clock)
        look = Deadline.after(WATCH_S, self._clock)
        while not self._deadline.passed() and not handle.stopping.is_set():
            if beat.passed():
                beat = Deadline.after(BEAT_S, self._clock)
                self._check()
                watch(self.status())
            if look.passed():
                look = Deadline.after(WATCH_S, self._clock)
                self._watch_over()
            if (tickers := handle.take_retarget()) is not None:
                self._feed.retarget(tickers)
            try:
                self._mailbox.get(timeout=min(beat.left(), self._deadline.left()))()
            except queue.Empty:
                continue

    def _check(self) -> None:
        """Raise what went wrong since the last beat."""
        self._feed.check()
        for thread in (self._recording, self._syncing):
            if thread.failure is not None:
                raise _chained(thread.failure)
        self._collect(wait=False)
        free = files.free_bytes(self._layout.root)
        if free < self._settings.min_free:
            raise DiskFull(self._layout.root, free)

    def _watch_over(self) -> None:
        """Look for what a live connection can still lack; dear enough for once a minute only."""
        now = self._clock.wall()
        if sentence := self._vigil.lag(self._recorder.latest_lag_ms):
            self._journal.on_notice(sentence)
        last = {ticker: at(stamp) for ticker, stamp in dict(self._intake.last).items()}
        report = self.report
        for ticker in self._vigil.silence(report.tickers, last, report.started, at(now)):
            self._journal.on_notice(f"{ticker} is silent though its market is open")

    def status(self) -> Status:
        """How it stands now."""
        report = self.report
        received = dict(self._intake.received)  # a copy in one step: the feed goes on counting
        return Status(
            report.session,
            self._journal.connected,
            self._clock.monotonic() - self._began,
            self._deadline.left(),
            sum(received.values()),
            self._intake.backlog,
            report.reconnects,
            self._recorder.latest_lag_ms,
            tuple(report.tickers),
            received,
        )

    def _sync(self) -> None:
        while not self._ended.wait(self._settings.sync_every):
            try:
                tape = self._intake.current.tape
            except IndexError:
                return  # the recorder has sealed the last one
            tape.sync()

    def _recover(self) -> None:
        recover(self._layout, self._clock)

    def _mail_sealed(self, sealed: Sealed) -> None:
        self._mailbox.put(partial(self._sealed, sealed))

    def _sealed(self, sealed: Sealed) -> None:
        self._journal.sealed(sealed)
        if self._interrupted:
            return
        whole = not sealed.spilled
        self._results[sealed.part.window] = self._publisher(self._layout, sealed.part, whole=whole)

    def _collect(self, *, wait: bool) -> None:
        """Take in what was published meanwhile."""
        for window, result in list(self._results.items()):
            if not wait and not result.done():
                continue
            del self._results[window]
            try:
                published = result.result()
            except Exception as error:  # noqa: BLE001 - kept: the capture goes on, and then fails
                self._failures.append(error)
                self._journal.tell(
                    "failure",
                    f"window {window} is not published: {error}",
                    logging.ERROR,
                    window=window,
                    error=str(error),
                )
                continue
            self._journal.published(published)

    # --- the end -----------------------------------------------------------------------------

    def _stop(self) -> None:
        """Feed, recorder, sync, mail: in this order, each under its deadline; again: nothing."""
        if self._ended.is_set():
            return
        self._feed.stop(Deadline.after(STOP_FEED_S, self._clock))
        self._mark_the_end()
        self._recorder.end()
        self._recording.join(STOP_RECORDER_S)
        self._ended.set()
        self._syncing.join(STOP_FEED_S)
        while True:
            try:
                self._mailbox.get_nowait()()
            except queue.Empty:
                break
        if self._recording.is_alive():
            self._failures.append(
                StoreError(
                    "The recorder did not finish in time: run `stocktrace recover`; "
                    "all that was received is on the tape."
                )
            )

    def _mark_the_end(self) -> None:
        """What comes while the rest is published is not listened to any more."""
        if self._feed.ended_at:  # its thread has ended: nobody else writes on the tape
            try:
                self._observer.on_ended(self._feed.ended_at)
                self._end_is_marked = True
            except (StocktraceError, OSError) as error:
                self._failures.append(error)

    def _raise_failures(self) -> None:
        self._feed.check()
        threads = (self._recording, self._syncing, self._recovering)
        for failure in (*(thread.failure for thread in threads), *self._failures):
            if failure is not None:
                raise _chained(failure)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for cycles less often: trades are made by the hundred thousand and are in none.

    With the default thresholds half of the decoding time went into looking (docs/performance.md).
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _chained(failure: BaseException) -> StocktraceError:
    """``failure`` of another thread as an error of ours, to be raised on this one."""
    if isinstance(failure, StocktraceError):
        return failure
    error = StoreError(f"The capture stopped: {type(failure).__name__}: {failure}")
    error.__cause__ = failure
    return error


def _policy(settings: Settings) -> FeedPolicy:
    return FeedPolicy(
        handshake_s=settings.handshake_within,
        ping_every_s=settings.ping_every,
        pong_within_s=settings.pong_within,
        frame_within_s=settings.frame_within,
        silence_s=settings.silence,
        backoff_base_s=settings.backoff_base,
        backoff_cap_s=settings.backoff_cap,
        backoff_floor_s=settings.backoff_floor,
        stable_s=settings.stable_after,
    )
