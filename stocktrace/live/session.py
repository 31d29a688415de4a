"""A capture while it runs: its threads, and the order in which they start and end.

Five threads, all started here or in ``feed/client.py``: the *feed* reads the socket, appends
to the tape and fills the queues; the *recorder* empties them to disk; the *sync* thread has the
tape written through once a second; and the thread that called ``capture`` keeps the time, the
report and the audit log, and hands rolled windows to whoever publishes them. The fifth recovers
what dead sessions left, and is gone then. None dies alone: what kills one ends the capture and is
raised here, chained (a recovery that fails does so when the capture ends).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial

from stocktrace.clock import Clock, Deadline
from stocktrace.errors import DiskFull, StoreError
from stocktrace.feed.client import FeedClient, FeedState
from stocktrace.live import tuning
from stocktrace.live.control import CaptureControl
from stocktrace.live.key_lock import KeyHolder
from stocktrace.live.publishing import Publisher, WindowPublishing
from stocktrace.live.snapshot import StatusSnapshot
from stocktrace.live.staleness import StalenessMonitor
from stocktrace.live.ticker_changes import TickerChanger
from stocktrace.live.ticker_requests import open_inbox
from stocktrace.live.tuning import reduce_garbage_collection
from stocktrace.live.worker import WorkerThread, chain_failure
from stocktrace.marks import OpeningMark
from stocktrace.query.duplicates import count_session_duplicates
from stocktrace.record.feed_events import FeedEventRecorder, Mailbox
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal, new_report, report_gaps
from stocktrace.record.recorder import Recorder, SealedWindow
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import LagReport, SessionReport, SessionState
from stocktrace.sessions.status import CaptureStatus, StatusFile
from stocktrace.settings import Settings
from stocktrace.store import files
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.units import utc_datetime

# How often the control thread looks up: progress twice a second, a stop within that time.
STATUS_INTERVAL_S = 0.5
# How often lag and silent tickers are looked for.
STALENESS_INTERVAL_S = 60.0
# The feed's share of the two seconds in which a capture ends, whatever the socket does.
STOP_FEED_TIMEOUT_S = 1.5
# What the recorder may take to write what waits; Prefect kills a cancelled flow after 30 s.
STOP_RECORDER_TIMEOUT_S = 15.0


class CaptureSession:
    """One capture; call it once."""

    def __init__(
        self,
        layout: Layout,
        turn: KeyHolder,
        tickers: tuple[str, ...],
        key: str,
        settings: Settings,
        deadline: Deadline,
        clock: Clock,
    ) -> None:
        self._layout, self._settings, self._clock = layout, settings, clock
        self._deadline = deadline
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._turn, session, stamp = turn, turn.session, turn.acquired_at
        self.report = new_report(session, tickers, stamp, settings.public())
        self._journal = SessionJournal(layout, self.report, AuditLog(layout.audit, session, clock))
        self._intake = Intake(layout, session, settings, stamp, tickers)
        self._journal.coverage.add(OpeningMark(stamp, connected=False, tickers=tickers))
        self._observer = FeedEventRecorder(self._intake, self._journal, self._mailbox, clock)
        self._feed = FeedClient(settings, key, tickers, self._observer, clock)
        if turn.waited_for:
            self._feed.set_gap_start(stamp, turn.waited_for)
        self._recorder = Recorder(layout, self._intake, settings, self._post_sealed)
        self._gauge = StatusSnapshot(self._journal, self._intake, self._recorder, deadline, clock)
        self._status = StatusFile(layout.status(session))
        self._recording = WorkerThread("recorder", self._recorder.run, self._wake)
        self._syncing = WorkerThread("sync", self._sync, self._wake)
        # Beside the capture, not before it: what is live comes only once.
        self._recovering = WorkerThread("recover", self._recover, self._wake)
        self._ended = threading.Event()
        self._end_is_marked = False
        self._interrupted = False
        self._lookout = StalenessMonitor(self._journal, self._intake, self._recorder)
        self._failures: list[BaseException] = []

    def __call__(
        self,
        publisher: Publisher,
        watch: Callable[[CaptureStatus], None],
        handle: CaptureControl,
        connection: contextlib.ExitStack,
    ) -> SessionReport:
        """Capture until the deadline or until ``handle`` stops it; publish; give the report.

        ``connection`` is closed as soon as there is none any more, and never will be.
        """
        self._connection = connection
        session = self.report.session
        with (
            reduce_garbage_collection(),
            tuning.keep_freed_memory(),
            open_inbox(self._layout, session) as changes,
        ):
            self._steering = TickerChanger(
                changes, handle, self._feed, self._journal, self._intake, self._clock
            )
            try:
                return self._capture(publisher, watch, handle)
            finally:
                self._status.write(self._gauge())  # the last one stays

    def _capture(
        self, publisher: Publisher, watch: Callable[[CaptureStatus], None], handle: CaptureControl
    ) -> SessionReport:
        self._publishing = WindowPublishing(self._layout, publisher, self._journal)
        report, journal = self.report, self._journal
        journal.audit("start", tickers=report.tickers, settings=report.settings)
        journal.save()
        self._recording.start()
        self._syncing.start()
        self._feed.start()
        self._recovering.start()
        try:
            self._run_until_end(watch, handle)
            self._gauge.is_stopping = True
            self._publish_status(watch)
            # The report on disk runs until all is published: killed before, it is recovered.
            state: SessionState = "interrupted" if handle.stopping.is_set() else "complete"
            reason = handle.reason or "its time was up"
            self._stop()
            if state == "complete" and not journal.connected:
                state, reason = "failed", f"not connected at the end: {journal.disconnect_reason}"
            self._publishing.collect_finished(wait=True)
            self._recovering.join()
            self._raise_failures()
            report.duplicates = count_session_duplicates(self._layout, report.session, report.dates)
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            reason = str(error) if isinstance(error, Exception) else "interrupted"
            # Whoever interrupts does not wait for long: what is sealed now is published later.
            self._interrupted = not isinstance(error, Exception)
            self._stop()
            self._publishing.collect_finished(wait=False)
            raise
        finally:
            self._write_report(state, reason)
        if report.state != "failed" and not report.balanced:
            report.state, report.reason = "failed", "; ".join(report.differences())
            journal.save()
        return report

    # --- while it runs -----------------------------------------------------------------------

    def _run_until_end(
        self, watch: Callable[[CaptureStatus], None], handle: CaptureControl
    ) -> None:
        beat = Deadline.after(0, self._clock)
        look = Deadline.after(STALENESS_INTERVAL_S, self._clock)
        while not self._deadline.passed() and not handle.stopping.is_set():
            if beat.passed():
                beat = Deadline.after(STATUS_INTERVAL_S, self._clock)
                self._raise_problems()
                self._steering.apply_changes()
                self._publish_status(watch)
            if look.passed():
                look = Deadline.after(STALENESS_INTERVAL_S, self._clock)
                self._lookout.check(self._clock.wall())
            try:
                self._mailbox.get(timeout=min(beat.remaining(), self._deadline.remaining()))()
            except queue.Empty:
                continue

    def _raise_problems(self) -> None:
        """Raise what went wrong since the last beat."""
        self._feed.raise_failure()
        for thread in (self._recording, self._syncing):
            if thread.failure is not None:
                raise chain_failure(thread.failure)
        self._publishing.collect_finished(wait=False)
        free = files.free_bytes(self._layout.root)
        if free < self._settings.min_free_space:
            raise DiskFull(self._layout.root, free)

    def _publish_status(self, watch: Callable[[CaptureStatus], None]) -> None:
        """How it stands now, to whoever watches: in this process, and through the file."""
        status = self._gauge()
        if sentence := self._status.write(status):
            self._journal.on_notice(sentence)
        watch(status)

    def _wake(self) -> None:
        self._mailbox.put(lambda: None)

    def _sync(self) -> None:
        while not self._ended.wait(self._settings.sync_interval):
            try:
                tape = self._intake.current.tape
            except IndexError:
                return  # the recorder has sealed the last one
            tape.sync()

    def _recover(self) -> None:
        recover(self._layout, self._clock)

    def _post_sealed(self, sealed: SealedWindow) -> None:
        self._mailbox.put(partial(self._on_sealed, sealed))

    def _on_sealed(self, sealed: SealedWindow) -> None:
        self._journal.window_sealed(sealed)
        if not self._interrupted:
            self._publishing.publish(sealed)

    # --- the end -----------------------------------------------------------------------------

    def _stop(self) -> None:
        """Feed, recorder, sync, mail: in this order, each under its deadline; again: nothing."""
        if self._ended.is_set():
            return
        self._steering.close()
        if not self._feed.stop(Deadline.after(STOP_FEED_TIMEOUT_S, self._clock)):
            self._leave_the_feed()
        if self._feed.ended_at:
            self._turn.key_lock.record_disconnect(self._feed.ended_at)
            self._connection.close()
        self._mark_end()
        self._recorder.finish()
        self._recording.join(STOP_RECORDER_TIMEOUT_S)
        self._ended.set()
        self._syncing.join(STOP_FEED_TIMEOUT_S)
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

    def _leave_the_feed(self) -> None:
        if self._feed.state is FeedState.CONNECTING:
            sentence = (
                f"The feed did not end within {STOP_FEED_TIMEOUT_S:g} s while it was connecting; "
                "everything that was received is recorded."
            )
        else:
            self._intake.spill()
            sentence = (
                "The feed did not end in time; what it still held was had from the tape: "
                "run `stocktrace verify`."
            )
        self._failures.append(StoreError(sentence))

    def _write_report(self, state: SessionState, reason: str) -> None:
        """However it ended, the report and the coverage on disk tell it."""
        report, journal = self.report, self._journal
        report.state, report.reason = state, reason
        ended = self._clock.wall()
        report.ended = utc_datetime(ended)
        if not self._end_is_marked:
            journal.coverage.feed_crashed(self._intake.last_data_at, "the capture failed")
        journal.coverage.close(ended)
        report.gaps = report_gaps(journal.coverage)
        written = write_coverage(self._layout, report.session, journal.coverage.intervals)
        hash_files(self._layout, report, written)
        report.latency = LagReport.of(self._recorder.lags)
        report.silent = self._lookout.silent(ended)
        journal.audit("end", state=report.state, reason=report.reason, books=report.books)
        journal.save()

    def _mark_end(self) -> None:
        """What comes while the rest is published is not listened to any more."""
        # Once, and only if its thread has ended: nobody else writes on the tape then.
        if self._feed.ended.is_set() and self._intake.windows and not self._end_is_marked:
            try:
                self._observer.on_ended(self._feed.ended_at)
                self._end_is_marked = self._feed.ended_at > 0
            except Exception as error:  # noqa: BLE001 - raised when all has ended
                self._failures.append(error)

    def _raise_failures(self) -> None:
        self._feed.raise_failure()
        threads = (self._recording, self._syncing, self._recovering)
        kept = (*self._failures, *self._publishing.failures)
        for failure in (*(thread.failure for thread in threads), *kept):
            if failure is not None:
                raise chain_failure(failure)
