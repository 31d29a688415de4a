"""Applies changes of tickers to a running capture, and finds out their outcome.

It runs on the thread that called ``capture``. Requests through ``CaptureControl`` and through the
data folder are applied in turn, so a relative change is relative to the tickers at that moment.

Finnhub does not acknowledge subscriptions. A ticker counts as subscribed when it trades, or when no
error arrived for a while. For an error without a ticker, the feed finds out which one it means
(``feed.subscriptions``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stocktrace.clock import Clock, Deadline
from stocktrace.errors import StoreError
from stocktrace.feed.client import FeedClient
from stocktrace.feed.subscriptions import ANSWER_TIMEOUT_S
from stocktrace.live.control import CaptureControl, ChangeRequest
from stocktrace.live.ticker_requests import ChangeInbox, ChangeOutcome
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal

# After an error the feed waits for others, then asks, then waits for the answer.
EXPLANATION_TIMEOUT_S = 3 * ANSWER_TIMEOUT_S

NO_TICKERS = "A capture needs at least one ticker: end it instead."


@dataclass(slots=True)
class _PendingChange:
    """A change that was applied, and whose sender waits for the outcome."""

    name: str
    change: ChangeRequest
    added: tuple[str, ...]
    removed: tuple[str, ...]
    #: When it was applied: the trades of each ticker, and the refusals.
    received: dict[str, int]
    refusals: int
    #: The refusals at the last look, and when to stop waiting for another.
    seen_refusals: int
    deadline: Deadline | None = None


class TickerChanger:
    """Takes changes, applies them and answers; one thread."""

    def __init__(
        self,
        inbox: ChangeInbox,
        control: CaptureControl,
        feed: FeedClient,
        journal: SessionJournal,
        intake: Intake,
        clock: Clock,
    ) -> None:
        self._inbox, self._control, self._feed = inbox, control, feed
        self._journal, self._intake, self._clock = journal, intake, clock
        self._pending: list[_PendingChange] = []
        self._has_failed = False

    def apply_changes(self) -> None:
        """Apply new changes, and answer those whose outcome is known."""
        for change in self._control.take_changes():
            self._apply(change)
        try:
            for name, change in self._inbox.take():
                self._apply(change, name)
            for pending in [each for each in self._pending if self._is_answered(each)]:
                self._pending.remove(pending)
                self._answer(pending)
        except (StoreError, OSError) as error:  # the sender times out; the capture continues
            if not self._has_failed:
                self._journal.on_notice(f"changes of tickers cannot be read or answered: {error}")
            self._has_failed = True

    def close(self) -> None:
        """Answer all senders, because the capture ends."""
        try:
            for pending in self._pending:
                self._answer(pending)
            for name, _ in self._inbox.take():
                self._inbox.answer(name, ChangeOutcome(error="The capture is ending."))
        except (StoreError, OSError) as error:
            self._journal.on_notice(f"changes of tickers cannot be answered: {error}")
        self._pending = []

    def _apply(self, change: ChangeRequest, name: str | None = None) -> None:
        captured = self._feed.tickers
        wanted = change.apply_to(captured)
        if not wanted:
            text = f"tickers are not changed ({change.requested_by}): it would remove all of them"
            self._journal.record("retarget-refused", text, logging.WARNING, by=change.requested_by)
            if name is not None:
                self._inbox.answer(name, ChangeOutcome(captured, error=NO_TICKERS))
            return
        added = tuple(ticker for ticker in wanted if ticker not in set(captured))
        removed = tuple(ticker for ticker in captured if ticker not in set(wanted))
        if added or removed:
            self._journal.on_ticker_change(self._clock.wall(), change.requested_by, added, removed)
            self._feed.set_tickers(wanted)
        if name is not None:
            received = {ticker: self._intake.received[ticker] for ticker in added}
            refusals = self._journal.refusals
            self._pending.append(
                _PendingChange(name, change, added, removed, received, refusals, refusals)
            )

    def _is_answered(self, pending: _PendingChange) -> bool:
        """Return whether the outcome of a change is known as far as possible."""
        journal, report = self._journal, self._journal.report
        if not journal.connected:
            return True
        # A later change may have undone it: then nothing remains to be seen.
        wanted, subscribed = set(self._feed.tickers), set(report.tickers)
        added = wanted.intersection(pending.added)
        if not added <= subscribed or subscribed.intersection(pending.removed) - wanted:
            return False
        if not any(self._is_undecided(ticker, pending) for ticker in added):
            return True
        if journal.refusals != pending.seen_refusals:
            pending.seen_refusals = journal.refusals
            pending.deadline = Deadline.after(EXPLANATION_TIMEOUT_S, self._clock)
        elif pending.deadline is None:
            pending.deadline = Deadline.after(ANSWER_TIMEOUT_S, self._clock)
        return pending.deadline.passed()

    def _is_undecided(self, ticker: str, pending: _PendingChange) -> bool:
        """Return whether ``ticker`` was neither refused nor traded since the change."""
        return (
            ticker not in self._journal.report.refused
            and self._intake.received[ticker] == pending.received[ticker]
        )

    def _answer(self, pending: _PendingChange) -> None:
        journal, captured = self._journal, self._feed.tickers
        refusals = journal.report.refused
        named = [ticker for ticker in pending.change.tickers if ticker in captured]
        refused = {ticker: refusals[ticker] for ticker in named if ticker in refusals}
        is_unclear = bool(pending.added) and not refused and journal.refusals != pending.refusals
        self._inbox.answer(
            pending.name,
            ChangeOutcome(
                captured,
                pending.added,
                pending.removed,
                refused,
                journal.last_refusal if is_unclear else "",
                journal.connected,
            ),
        )
