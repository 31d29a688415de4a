"""What the feed's thread calls while a session lives.

It only appends to the tape and fills the queues; everything else it has to tell (report, audit log,
messages) it leaves in a mailbox, which the capture's own thread reads.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stocktrace.clock import SYSTEM_CLOCK, Clock, ClockJumpDetector
from stocktrace.intervals import Gap
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal
from stocktrace.store.tape import TapeMark

#: What the capture's thread still has to do for something that happened on another one.
Mailbox = queue.SimpleQueue[Callable[[], None]]


class FeedEventRecorder:
    """What the feed's thread calls: the tape and the queues at once, all else by mail."""

    def __init__(
        self, intake: Intake, journal: SessionJournal, mailbox: Mailbox, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._intake = intake
        self._journal = journal
        self._mailbox = mailbox
        self._clock = clock
        self._pulse: ClockJumpDetector | None = None

    def _mark(self, stamp: int, name: str, **facts: Any) -> None:
        """On the tape, so that a replay sees it and the coverage can be had again."""
        mark = TapeMark(stamp, name, facts)
        self._intake.mark(mark)
        self._mailbox.put(partial(self._journal.coverage.add, mark))

    def _check_clock(self, stamp: int) -> None:
        """Notice, while listening, that time passed without us, or that the clock was set."""
        monotonic = self._clock.monotonic()
        if self._pulse is not None and (reason := self._pulse.check(stamp, monotonic)):
            start = min(self._pulse.previous_wall, stamp)
            self._mark(stamp, "paused", start=self._pulse.previous_wall, reason=reason)
            self._mailbox.put(partial(self._journal.on_gap, Gap(start, stamp, (), reason)))

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> Sequence[str]:
        """To the tape and, a moment later, decoded to the queues; what errors came meanwhile."""
        self._check_clock(stamp)
        self._intake.frames(stamp, frames)
        return self._errors()

    def _errors(self) -> Sequence[str]:
        errors, self._intake.errors = self._intake.errors, []
        for text in errors:
            self._mailbox.put(partial(self._journal.on_error, text))
        return errors

    def _send_notices(self) -> None:
        """What came before the end comes before it in the log, too."""
        self._intake.decode()
        self._errors()

    def has_traded(self, ticker: str) -> bool:
        """Whether a trade of ``ticker`` came in this session."""
        self._intake.decode()
        return ticker in self._intake.last

    def on_refused(self, stamp: int, ticker: str, text: str) -> None:
        """We do not listen to this one."""
        self._mark(stamp, "refused", tickers=[ticker], text=text)
        self._mailbox.put(partial(self._journal.on_refused, ticker, text))

    def on_tick(self, stamp: int) -> Sequence[str]:
        """A window may end without frames."""
        self._check_clock(stamp)
        self._intake.tick(stamp)
        return self._errors()

    def on_connected(self, stamp: int, tickers: Sequence[str]) -> None:
        """From now on we listen."""
        self._pulse = ClockJumpDetector(stamp, self._clock.monotonic())
        self._mark(stamp, "connected", tickers=list(tickers))
        self._intake.state = {"connected": True, "tickers": list(tickers)}
        self._intake.last_data_at = stamp
        self._mailbox.put(partial(self._journal.on_connected, tickers))

    def on_disconnected(self, stamp: int, reason: str) -> None:
        """We do not listen any more."""
        self._send_notices()
        self._pulse = None
        self._mark(stamp, "disconnected", reason=reason)
        self._intake.state["connected"] = False
        self._mailbox.put(partial(self._journal.on_disconnected, reason))

    def on_subscription(self, stamp: int, added: Sequence[str], removed: Sequence[str]) -> None:
        """We listen to other tickers."""
        self._mark(stamp, "subscription", added=list(added), removed=list(removed))
        had = [ticker for ticker in self._intake.state["tickers"] if ticker not in set(removed)]
        self._intake.state = {"connected": True, "tickers": [*had, *added]}
        self._mailbox.put(partial(self._journal.on_subscription, added, removed))

    def on_gap(self, gap: Gap) -> None:
        """When the loss began, which was noticed only later."""
        self._mark(gap.end, "gap", start=gap.start, reason=gap.reason)
        self._mailbox.put(partial(self._journal.on_gap, gap))

    def on_ended(self, stamp: int) -> None:
        """Nobody listens any more since ``stamp`` (0: the feed died); its thread has ended."""
        self._send_notices()
        if stamp:
            self._mark(stamp, "ended")

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """For the log; time passes meanwhile."""
        self._intake.tick(stamp)
        self._mailbox.put(partial(self._journal.on_retry, stamp, reason, wait_s))

    def on_notice(self, stamp: int, text: str) -> None:
        """For the report."""
        del stamp
        self._mailbox.put(partial(self._journal.on_notice, text))
