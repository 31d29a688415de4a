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
import queue
import threading
from collections.abc import Callable
from functools import partial

from stocktrace.deadline import Clock, Deadline, utc
from stocktrace.errors import DiskFull, StoreError
from stocktrace.feed.connection import Feed, State
from stocktrace.feed.policy import FeedPolicy
from stocktrace.live.changes import inbox
from stocktrace.live.garbage import rare_collections
from stocktrace.live.gauge import Gauge
from stocktrace.live.handle import Handle
from stocktrace.live.lookout import Lookout
from stocktrace.live.publishing import Publisher, Publishing
from stocktrace.live.steering import Steering
from stocktrace.live.turn import Turn
from stocktrace.live.worker import Worker, chained
from stocktrace.record.intake import Intake, Limits
from stocktrace.record.journal import Journal, gap_reports, new_report
from stocktrace.record.observer import Mailbox, Observer
from stocktrace.record.recorder import Recorder, Sealed
from stocktrace.record.recovery import recover
from stocktrace.record.vouching import vouch
from stocktrace.report import LagReport, Report
from stocktrace.settings import Settings
from stocktrace.status import Status, StatusFile
from stocktrace.store import files, memory
from stocktrace.store.audit import Audit
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.originals import copies_of_session
from stocktrace.store.tape import Mark
from stocktrace.store.window import RollPolicy

# How often the control thread looks up: progress twice a second, a stop within that time.
BEAT_S = 0.5
# How often lag and silent tickers are looked for.
WATCH_S = 60.0
# The feed's share of the two seconds in which a capture ends, whatever the socket does.
STOP_FEED_S = 1.5
# What the recorder may take to write what waits; Prefect kills a cancelled flow after 30 s.
STOP_RECORDER_S = 15.0


class Run:
    """One capture; call it once."""

    def __init__(
        self,
        layout: Layout,
        turn: Turn,
        tickers: tuple[str, ...],
        key: str,
        settings: Settings,
        deadline: Deadline,
        clock: Clock,
    ) -> None:
        self._layout, self._settings, self._clock = layout, settings, clock
        self._deadline = deadline
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._turn, session, stamp = turn, turn.session, turn.began
        self.report = new_report(session, tickers, stamp, settings.public())
        self._journal = Journal(layout, self.report, Audit(layout.audit, session, clock))
        self._intake = Intake(
            layout,
            session,
            RollPolicy(settings.roll_every, settings.roll_size),
            Limits.of(settings),
            stamp,
            tickers,
        )
        first = Mark(stamp, "tape", {"connected": False, "tickers": tickers})
        self._journal.coverage.add(first)
        self._observer = Observer(self._intake, self._journal, self._mailbox, clock)
        self._feed = Feed(
            settings.url, key, tickers, self._observer, FeedPolicy.of(settings), clock
        )
        if turn.after:
            self._feed.take_over(stamp, turn.after)
        self._recorder = Recorder(
            layout, self._intake, settings.batch_rows, settings.flush_every, self._mail_sealed
        )
        self._gauge = Gauge(self._journal, self._intake, self._recorder, deadline, clock)
        self._status = StatusFile(layout.status(session))
        self._recording = Worker("recorder", self._recorder.run, self._wake)
        self._syncing = Worker("sync", self._sync, self._wake)
        # Beside the capture, not before it: what is live comes only once.
        self._recovering = Worker("recover", self._recover, self._wake)
        self._ended = threading.Event()
        self._end_is_marked = False
        self._interrupted = False
        self._lookout = Lookout(self._journal, self._intake, self._recorder)
        self._failures: list[BaseException] = []

    def __call__(
        self,
        publisher: Publisher,
        watch: Callable[[Status], None],
        handle: Handle,
        connection: contextlib.ExitStack,
    ) -> Report:
        """Capture until the deadline or until ``handle`` stops it; publish; give the report.

        ``connection`` is closed as soon as there is none any more, and never will be.
        """
        self._connection = connection
        session = self.report.session
        with rare_collections(), memory.kept(), inbox(self._layout, session) as changes:
            self._steering = Steering(
                changes, handle, self._feed, self._journal, self._intake, self._clock
            )
            try:
                return self._capture(publisher, watch, handle)
            finally:
                self._status.write(self._gauge())  # the last one stays

    def _capture(
        self, publisher: Publisher, watch: Callable[[Status], None], handle: Handle
    ) -> Report:
        self._publishing = Publishing(self._layout, publisher, self._journal)
        report, journal = self.report, self._journal
        journal.audit("start", tickers=report.tickers, settings=report.settings)
        journal.save()
        self._recording.start()
        self._syncing.start()
        self._feed.start()
        self._recovering.start()
        try:
            self._keep_time(watch, handle)
            self._gauge.ending = True
            self._tell(watch)
            # The report on disk runs until all is published: killed before, it is recovered.
            state = "interrupted" if handle.stopping.is_set() else "complete"
            reason = handle.reason or "its time was up"
            self._stop()
            if state == "complete" and not journal.connected:
                state, reason = "failed", f"not connected at the end: {journal.lost}"
            self._publishing.collect(wait=True)
            self._recovering.join()
            self._raise_failures()
            report.copies = copies_of_session(self._layout, report.session, report.dates)
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            reason = str(error) if isinstance(error, Exception) else "interrupted"
            # Whoever interrupts does not wait for long: what is sealed now is published later.
            self._interrupted = not isinstance(error, Exception)
            self._stop()
            self._publishing.collect(wait=False)
            raise
        finally:
            self._conclude(state, reason)
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
                self._steering.look()
                self._tell(watch)
            if look.passed():
                look = Deadline.after(WATCH_S, self._clock)
                self._lookout.look(self._clock.wall())
            try:
                self._mailbox.get(timeout=min(beat.left(), self._deadline.left()))()
            except queue.Empty:
                continue

    def _check(self) -> None:
        """Raise what went wrong since the last beat."""
        self._feed.check()
        for thread in (self._recording, self._syncing):
            if thread.failure is not None:
                raise chained(thread.failure)
        self._publishing.collect(wait=False)
        free = files.free_bytes(self._layout.root)
        if free < self._settings.min_free:
            raise DiskFull(self._layout.root, free)

    def _tell(self, watch: Callable[[Status], None]) -> None:
        """How it stands now, to whoever watches: in this process, and through the file."""
        status = self._gauge()
        if sentence := self._status.write(status):
            self._journal.on_notice(sentence)
        watch(status)

    def _wake(self) -> None:
        self._mailbox.put(lambda: None)

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
        if not self._interrupted:
            self._publishing.begin(sealed)

    # --- the end -----------------------------------------------------------------------------

    def _stop(self) -> None:
        """Feed, recorder, sync, mail: in this order, each under its deadline; again: nothing."""
        if self._ended.is_set():
            return
        self._steering.close()
        if not self._feed.stop(Deadline.after(STOP_FEED_S, self._clock)):
            self._leave_the_feed()
        if self._feed.ended_at:
            self._turn.place.leave_word(self._feed.ended_at)
            self._connection.close()
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

    def _leave_the_feed(self) -> None:
        if self._feed.state is State.CONNECTING:
            sentence = (
                f"The feed did not end within {STOP_FEED_S:g} s while it was connecting; "
                "everything that was received is recorded."
            )
        else:
            self._intake.spill()
            sentence = (
                "The feed did not end in time; what it still held was had from the tape: "
                "run `stocktrace verify`."
            )
        self._failures.append(StoreError(sentence))

    def _conclude(self, state: str, reason: str) -> None:
        """However it ended, the report and the coverage on disk tell it."""
        report, journal = self.report, self._journal
        report.state, report.reason = state, reason
        ended = self._clock.wall()
        report.ended = utc(ended)
        if not self._end_is_marked:
            journal.coverage.died(self._intake.heard, "the capture failed")
        journal.coverage.close(ended)
        report.gaps = gap_reports(journal.coverage)
        written = write_coverage(self._layout, report.session, journal.coverage.intervals)
        vouch(self._layout, report, written)
        report.lag = LagReport.of(self._recorder.lags)
        report.silent = self._lookout.silent(ended)
        journal.audit("end", state=report.state, reason=report.reason, books=report.books)
        journal.save()

    def _mark_the_end(self) -> None:
        """What comes while the rest is published is not listened to any more."""
        # Once, and only if its thread has ended: nobody else writes on the tape then.
        if self._feed.ended.is_set() and self._intake.recordings and not self._end_is_marked:
            try:
                self._observer.on_ended(self._feed.ended_at)
                self._end_is_marked = self._feed.ended_at > 0
            except Exception as error:  # noqa: BLE001 - raised when all has ended
                self._failures.append(error)

    def _raise_failures(self) -> None:
        self._feed.check()
        threads = (self._recording, self._syncing, self._recovering)
        kept = (*self._failures, *self._publishing.failures)
        for failure in (*(thread.failure for thread in threads), *kept):
            if failure is not None:
                raise chained(failure)
