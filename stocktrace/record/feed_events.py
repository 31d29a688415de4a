"""Receives the feed's events while a session runs, on the feed's thread.

It appends to the tape and fills the queues. Work for the report, the audit log and the log is put
into a mailbox, which the thread of the capture reads.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from functools import partial

from stocktrace.clock import SYSTEM_CLOCK, Clock, ClockJumpDetector
from stocktrace.marks import ConnectedMark, DisconnectedMark, EndedMark, Mark, PausedMark
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal

#: Calls that other threads leave for the thread of the capture.
Mailbox = queue.SimpleQueue[Callable[[], None]]


class FeedEventRecorder:
    """A ``FeedListener`` that passes frames and marks to the intake and posts the rest."""

    def __init__(
        self, intake: Intake, journal: SessionJournal, mailbox: Mailbox, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._intake = intake
        self._journal = journal
        self._mailbox = mailbox
        self._clock = clock
        self._clock_jumps: ClockJumpDetector | None = None

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        """Append the frames to the tape; the intake decodes them a moment later."""
        self._check_clock(stamp)
        self._intake.add_frames(stamp, frames)

    def on_tick(self, stamp: int) -> None:
        """Begin the next window if it is time, and decode what waits."""
        self._check_clock(stamp)
        self._intake.tick(stamp)

    def on_mark(self, mark: Mark) -> None:
        """Append the mark to the tape, and post it to the journal."""
        if isinstance(mark, ConnectedMark):
            self._clock_jumps = ClockJumpDetector(mark.stamp, self._clock.monotonic())
        elif isinstance(mark, DisconnectedMark):
            self._clock_jumps = None
        self._intake.add_mark(mark)
        self._mailbox.put(partial(self._journal.on_mark, mark))

    def on_error(self, text: str) -> None:
        """Post an error of the server."""
        self._mailbox.put(partial(self._journal.on_error, text))

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """Post an attempt that failed."""
        self._intake.tick(stamp)
        self._mailbox.put(partial(self._journal.on_retry, stamp, reason, wait_s))

    def on_notice(self, text: str) -> None:
        """Post a notice."""
        self._mailbox.put(partial(self._journal.on_notice, text))

    def on_ended(self, stamp: int) -> None:
        """Record the end at ``stamp`` (0 after an exception); the feed's thread has ended."""
        self._intake.decode()
        if stamp:
            self.on_mark(EndedMark(stamp))

    def _check_clock(self, stamp: int) -> None:
        """Record a pause of the process, or a change of the clock, while the feed listens."""
        monotonic = self._clock.monotonic()
        jumps = self._clock_jumps
        if jumps is not None and (reason := jumps.check(stamp, monotonic)):
            self.on_mark(PausedMark(stamp, jumps.previous_wall, reason))
