"""A capture while it runs: its threads, and the order in which they start and end.

Six threads, all started here or in ``feed/client.py``:

- the *feed* reads the socket, appends to the tape and fills the queues;
- the *recorder* writes the queues to disk;
- the *sync* thread syncs the tape and the audit log to disk once a second;
- the *recover* thread recovers crashed sessions, and then ends;
- the *folders* thread makes the folders of new tickers, and then ends;
- the thread that called ``capture`` keeps the time, the report and the audit log, and passes rolled
  windows to the publisher.

An exception in any thread stops the capture and is re-raised here, chained; that of a recovery only
when the capture ends.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from stocktrace.clock import PLAUSIBLE_SINCE_NS, Clock, Deadline
from stocktrace.errors import DiskFull, StocktraceError, StoreError, describe
from stocktrace.feed.client import FeedClient, FeedState
from stocktrace.live.control import CaptureControl
from stocktrace.live.health import StalenessMonitor, min_free_inodes
from stocktrace.live.key_lock import KeyHolder
from stocktrace.live.publishing import Publisher, WindowPublishing
from stocktrace.live.snapshot import StatusSnapshot
from stocktrace.live.ticker_changes import TickerChanger, open_inbox
from stocktrace.marks import OpeningMark
from stocktrace.record.feed_events import FeedEventRecorder
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.intake import Intake
from stocktrace.record.journal import Mailbox, SessionJournal, new_report
from stocktrace.record.recorder import Recorder, SealedWindow
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import LagReport, SessionReport, SessionState
from stocktrace.sessions.status import CaptureStatus, StatusFile, StepProgress
from stocktrace.settings import Settings
from stocktrace.store import files
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.segments import make_folders_ahead
from stocktrace.units import utc_datetime

# How often the main thread publishes the status; a stop is noticed within that time.
STATUS_INTERVAL_S = 0.5
# How often lag and silent tickers are checked.
STALENESS_INTERVAL_S = 60.0
# The feed's share of the two seconds in which a capture ends, whatever the socket does.
STOP_FEED_TIMEOUT_S = 1.5
# How long the recorder may take to write its queues; Prefect kills a cancelled flow after 30 s.
STOP_RECORDER_TIMEOUT_S = 15.0


class WorkerThread(threading.Thread):
    """A thread that stores the exception that ends it, and calls ``wake`` then."""

    def __init__(self, name: str, work: Callable[[], object], wake: Callable[[], None]) -> None:
        # Its messages belong to the capture's context: to the flow run, under Prefect.
        target = partial(contextvars.copy_context().run, work)
        # A daemon: a thread that hangs in a system call must not keep the process from ending.
        super().__init__(target=target, name=f"stocktrace-{name}", daemon=True)
        self._wake = wake
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Run ``work``."""
        try:
            super().run()
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            self.failure = error
            self._wake()


class CaptureSession:
    """One capture; called once."""

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        layout: Layout,
        holder: KeyHolder,
        tickers: tuple[str, ...],
        key: str,
        settings: Settings,
        deadline: Deadline,
        clock: Clock,
        *,
        folder: files.OpenFolder,
    ) -> None:
        self._layout, self._settings, self._clock = layout, settings, clock
        self._deadline, self._folder = deadline, folder
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._holder, session, stamp = holder, holder.session, holder.acquired_at
        self.report = new_report(session, tickers, stamp, settings.public())
        audit = AuditLog(layout.audit, session, clock)
        self._journal = SessionJournal(layout, self.report, audit, clock=clock)
        self._intake = Intake(layout, session, settings, stamp, tickers, folder)
        self._journal.coverage.add(OpeningMark(stamp, connected=False, tickers=tickers))
        self._events = FeedEventRecorder(self._intake, self._journal, self._mailbox, clock)
        self._feed = FeedClient(settings, key, tickers, self._events, clock, self._intake.received)
        if holder.waited_for:
            self._feed.set_gap_start(stamp, holder.waited_for)
        self._recorder = Recorder(layout, self._intake, settings, self._post_sealed)
        self._snapshot = StatusSnapshot(
            self._journal, self._intake, self._recorder, deadline, clock
        )
        self._status_file = StatusFile(layout.status(session))
        self._recording = WorkerThread("recorder", self._recorder.run, self.wake)
        self._syncing = WorkerThread("sync", self._sync, self.wake)
        # During the capture, not before it: live data comes only once.
        self._recovering = WorkerThread("recover", lambda: recover(layout, clock), self.wake)
        self._ended = threading.Event()
        self._end_is_marked = False
        self._interrupted = False
        self._has_folder = True
        self._staleness = StalenessMonitor(self._journal, self._intake, self._recorder)
        self._failures: list[BaseException] = []

    def __call__(
        self,
        publisher: Publisher,
        listeners: Sequence[Callable[[CaptureStatus], None]],
        control: CaptureControl,
        connection: contextlib.ExitStack,
    ) -> SessionReport:
        """Capture until the deadline or until ``control`` stops it; publish; return the report.

        ``listeners`` get each status; ``connection`` is closed when the feed has ended.
        """
        self._publishing = WindowPublishing(self._layout, publisher, self._journal)
        self._listeners, self._control, self._connection = listeners, control, connection
        with open_inbox(self._layout, self.report.session) as inbox:
            self._ticker_changer = TickerChanger(
                inbox, control, self._feed, self._journal, self._intake, self._clock
            )
            try:
                return self._capture()
            finally:
                self._status_file.write(self._snapshot())  # the last one stays

    def _capture(self) -> SessionReport:
        report, journal, control = self.report, self._journal, self._control
        journal.audit("start", tickers=report.tickers, settings=report.settings)
        journal.save()
        if sentence := files.folder_sync_notice(self._layout.root):  # it was logged
            report.notices.append(sentence)
            journal.audit("notice", text=sentence)
        if self._holder.acquired_at < PLAUSIBLE_SINCE_NS:
            journal.on_notice(
                f"the clock of this machine says {report.started:%Y-%m-%d %H:%M}: until it is set, "
                "receive times and the dates of files are wrong"
            )
        self._folders = make_folders_ahead(self._layout, report.tickers)
        for thread in (self._recording, self._syncing, self._feed, self._recovering):
            thread.start()
        try:
            self._run_until_end()
            self._snapshot.is_stopping = True
            self._publish_status()
            # The report on disk says running until all is published: a kill leads to a recovery.
            state: SessionState = "interrupted" if control.stopping.is_set() else "complete"
            reason = control.reason or "its end time was reached"
            self._stop(showing=True)
            if state == "complete" and not journal.connected:
                state, reason = "failed", f"not connected at the end: {journal.disconnect_reason}"
                if self._feed.unanswered:
                    reason += f"; no answer yet to {self._feed.unanswered}"
            self._publish_rest()
            self._recovering.join()
            threads = (self._recording, self._syncing, self._recovering)
            failures = (*(thread.failure for thread in threads), *self._failures)
            self._raise_first(*failures, *self._publishing.failures)
        except BaseException as error:
            # An interruption must be quick: sealed windows are published later.
            self._interrupted = not isinstance(error, Exception)
            state = "interrupted" if self._interrupted else "failed"
            reason = "interrupted" if self._interrupted else str(error)
            self._stop()
            self._publishing.collect_finished()
            raise
        finally:
            self._write_report(state, reason)
        if report.state != "failed" and not report.balanced:
            report.state, report.reason = "failed", "; ".join(report.differences())
            journal.close()
        return report

    def _run_until_end(self) -> None:
        status_due = Deadline.after(0, self._clock)
        staleness_due = Deadline.after(STALENESS_INTERVAL_S, self._clock)
        while not self._deadline.passed() and not self._control.stopping.is_set():
            if status_due.passed():
                status_due = Deadline.after(STATUS_INTERVAL_S, self._clock)
                self._raise_problems()
                self._ticker_changer.apply_changes()
                self._publish_status()
            if staleness_due.passed():
                staleness_due = Deadline.after(STALENESS_INTERVAL_S, self._clock)
                self._staleness.check(self._clock.wall(), self._snapshot())
            timeout = min(status_due.remaining(), self._deadline.remaining())
            with contextlib.suppress(queue.Empty):
                call = self._mailbox.get(timeout=timeout)
                self._check_folder()  # a call may write files, and would make the folder again
                call()

    def _raise_problems(self) -> None:
        """Raise the failure of another thread, or that the disk is full or the folder moved."""
        self._check_folder()
        self._raise_first(self._recording.failure, self._syncing.failure)
        self._publishing.collect_finished()
        root = self._layout.root
        free, inodes = files.free_bytes(root), files.free_inodes(root)
        if free < self._settings.min_free_space:
            raise DiskFull(root, free)
        if inodes is not None and inodes < min_free_inodes(len(self.report.tickers)):
            raise DiskFull(root, free, inodes)

    def _check_folder(self) -> None:
        """Raise that the data folder was moved; its report is written where it is now."""
        if self._folder.is_in_place:
            return
        root, new = self._layout.root, self._folder.find()
        self._recorder.is_abandoned = True
        self._has_folder = new is not None
        if new is None:
            raise StoreError(
                f"The data folder {root} was moved, replaced or deleted during the capture. If it "
                "still exists, run `stocktrace recover --data-dir` with its new path."
            )
        self._layout = self._journal.layout = replace(self._layout, root=new)
        self._journal.audit = AuditLog(self._layout.audit, self.report.session, self._clock)
        self._status_file = StatusFile(self._layout.status(self.report.session))
        raise StoreError(
            f"The data folder {root} was moved to {new} during the capture. Everything received is "
            f"on the tape there: run `stocktrace recover --data-dir {new}`."
        )

    def _raise_first(self, *failures: BaseException | None) -> None:
        self._feed.raise_failure()
        for failure in failures:
            if failure is not None:
                raise chain_failure(failure)

    def _publish_status(self) -> None:
        """Write the status file for other processes, and call the listeners of this one."""
        status = self._snapshot()
        if sentence := self._status_file.write(status):
            self._journal.on_notice(sentence)
        for listener in self._listeners:
            listener(status)

    def show_progress(self, step: str, done: int, total: int) -> None:
        """Show in the status how far a step of the end has come; from any thread."""
        self._snapshot.progress = StepProgress(step, done, total)

    def wake(self) -> None:
        """Let the main thread look what is new; from any thread."""
        self._mailbox.put(lambda: None)

    def _sync(self) -> None:
        while not self._ended.wait(self._settings.sync_interval):
            for window in list(self._intake.windows):  # those that are being sealed, too
                window.tape.sync()
            self._journal.audit.sync()

    def _post_sealed(self, sealed: SealedWindow) -> None:
        self._mailbox.put(partial(self._on_sealed, sealed))

    def _on_sealed(self, sealed: SealedWindow) -> None:
        self._journal.window_sealed(sealed)
        if not self._interrupted:
            self._publishing.publish(sealed)

    def _publish_rest(self) -> None:
        """Wait until all windows are published; show how far that is."""
        self._publishing.collect_finished()
        while self._publishing.is_pending:
            self._check_folder()
            self._publish_status()
            with contextlib.suppress(queue.Empty):
                self._mailbox.get(timeout=STATUS_INTERVAL_S)()
            self._publishing.collect_finished()

    def _join_recorder(self, *, showing: bool) -> None:
        remaining = STOP_RECORDER_TIMEOUT_S
        while remaining > 0:
            self._recording.join(min(STATUS_INTERVAL_S, remaining))
            if not self._recording.is_alive():
                return
            remaining -= STATUS_INTERVAL_S
            if showing:
                self._publish_status()

    def _stop(self, *, showing: bool = False) -> None:
        """End feed, recorder, sync and mailbox, in this order, each under a deadline; only once.

        With ``showing``, the status is published while it waits.
        """
        if self._ended.is_set():
            return
        self._ticker_changer.close()
        if not self._feed.stop(Deadline.after(STOP_FEED_TIMEOUT_S, self._clock)):
            self._abandon_feed()
        if self._feed.ended_at:
            self._holder.record_disconnect(self._feed.ended_at)
            self._connection.close()
        self._mark_end()
        self._recorder.finish()
        self._join_recorder(showing=showing)
        if self._recorder.is_abandoned:
            for window in self._intake.windows:
                window.tape.close()
        self._ended.set()
        self._syncing.join(STOP_FEED_TIMEOUT_S)
        self._folders.join(STOP_FEED_TIMEOUT_S)
        with contextlib.suppress(queue.Empty):
            while True:
                self._mailbox.get_nowait()()
        if self._recording.is_alive():
            self._failures.append(
                StoreError(
                    "The recorder did not finish in time. Everything received is on the tape: run "
                    "`stocktrace recover`."
                )
            )

    def _abandon_feed(self) -> None:
        sentence = (
            f"The feed did not end within {STOP_FEED_TIMEOUT_S:g} s while it was connecting. "
            "Everything received is recorded."
        )
        if self._feed.state is not FeedState.CONNECTING:
            self._intake.spill()
            sentence = (
                "The feed did not end in time. The trades that it still held were rebuilt from the "
                "tape: run `stocktrace verify`."
            )
        self._failures.append(StoreError(sentence))

    def _write_report(self, state: SessionState, reason: str) -> None:
        """Write the final report and coverage, whatever the outcome."""
        if not self._has_folder:
            return
        report, journal = self.report, self._journal
        report.state, report.reason = state, reason
        ended = self._clock.wall()
        report.ended = utc_datetime(ended)
        if not self._end_is_marked:
            journal.coverage.feed_crashed(self._intake.last_data_at, "the capture failed")
        journal.coverage.close(ended)
        journal.report_new_gaps()
        written = write_coverage(self._layout, report.session, journal.coverage.spans)
        hash_files(self._layout, report, written)
        report.latency = LagReport.of(self._recorder.lags)
        report.silent = self._staleness.silent_tickers(ended)
        journal.close()

    def _mark_end(self) -> None:
        """Mark the end of the feed on the tape: coverage does not include the publishing."""
        # Only if the feed's thread has ended: nobody else writes to the tape then.
        if self._feed.ended.is_set() and self._intake.windows and not self._end_is_marked:
            try:
                self._events.on_ended(self._feed.ended_at)
                self._end_is_marked = self._feed.ended_at > 0
            except Exception as error:  # noqa: BLE001 - raised when all threads have ended
                self._failures.append(error)


def chain_failure(failure: BaseException) -> StocktraceError:
    """Return ``failure`` of another thread as an error to be raised on this one."""
    if isinstance(failure, StocktraceError):
        return failure
    words = describe(failure)
    if not isinstance(failure, OSError):
        words = f"{type(failure).__name__}: {words}"
    error = StoreError(f"The capture stopped: {words}")
    error.__cause__ = failure
    return error
