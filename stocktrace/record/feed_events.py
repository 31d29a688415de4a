"""The feed's events, as its thread receives them: to the tape and the queues, and to the journal.

The journal's part waits in a mailbox, which the thread of the capture reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from stocktrace import marks
from stocktrace.clock import SYSTEM_CLOCK, Clock, ClockJumpDetector
from stocktrace.record.intake import Intake
from stocktrace.record.journal import Mailbox, SessionJournal


@dataclass(slots=True)
class FeedEventRecorder:
    """A ``FeedListener`` that passes frames and marks to the intake and posts the rest."""

    intake: Intake
    journal: SessionJournal
    mailbox: Mailbox
    clock: Clock = SYSTEM_CLOCK
    _clock_jumps: ClockJumpDetector | None = None
    #: Until when trades were received at the loss, if the feed was behind (epoch ns).
    _heard_until: int = 0

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        """Append the frames to the tape."""
        self._check_clock(stamp)
        self.intake.add_frames(stamp, frames)
        self._mark_lag(stamp)

    def on_tick(self, stamp: int) -> None:
        """Begin the next window if it is time, and decode what waits."""
        self._check_clock(stamp)
        self.intake.tick(stamp)
        self._mark_lag(stamp)

    def on_mark(self, mark: marks.Mark) -> None:
        """Append the mark to the tape, and post it to the journal."""
        if isinstance(mark, marks.ConnectedMark):
            self._clock_jumps = ClockJumpDetector(mark.stamp, self.clock.monotonic())
            self._heard_until = 0
        elif isinstance(mark, marks.DisconnectedMark):
            self._clock_jumps = None
            self.intake.decode()
            self._mark_lag(mark.stamp, at_loss=True)
            mark = marks.begin_earlier(mark, self._heard_until)
        elif isinstance(mark, marks.GapMark):
            mark = marks.begin_earlier(mark, self._heard_until)
        self._add_mark(mark)

    def _add_mark(self, mark: marks.Mark) -> None:
        self.intake.add_mark(mark)
        self.mailbox.put(partial(self.journal.on_mark, mark))

    def on_error(self, text: str) -> None:
        """Post an error of the server."""
        self.mailbox.put(partial(self.journal.on_error, text))

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """Post an attempt that failed."""
        self.intake.tick(stamp)
        self.mailbox.put(partial(self.journal.on_retry, stamp, reason, wait_s))

    def on_notice(self, text: str) -> None:
        """Post a notice."""
        self.mailbox.put(partial(self.journal.on_notice, text))

    def on_ended(self, stamp: int) -> None:
        """Record the end at ``stamp`` (0 after an exception); the feed's thread has ended."""
        self.intake.decode()
        if stamp:
            self._mark_lag(stamp, at_loss=True)
            self.on_mark(marks.EndedMark(stamp))

    def _check_clock(self, stamp: int) -> None:
        """Record a pause of the process, or a change of the clock, while the feed listens."""
        monotonic = self.clock.monotonic()
        jumps = self._clock_jumps
        if jumps is not None and (reason := jumps.check(stamp, monotonic)):
            self.intake.feed_lag.clock_stepped(jumps.stepped_s)
            self.on_mark(marks.PausedMark(stamp, jumps.previous_wall, reason))

    def _mark_lag(self, stamp: int, *, at_loss: bool = False) -> None:
        """Record how far the feed is behind, if that is due."""
        lag = self.intake.feed_lag.due(stamp, at_loss=at_loss)
        if lag is not None:
            self._add_mark(marks.LagMark(stamp, lag))
            if at_loss:
                self._heard_until = stamp - lag
