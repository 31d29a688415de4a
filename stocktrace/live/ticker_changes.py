"""Carries out changes of tickers in a running capture, and finds out what became of them.

All of it on the thread that called ``capture``: whoever asks, by ``Handle`` or through the data
folder, is served in turn, so what is relative is relative to what is captured at that moment.

Finnhub acknowledges no subscription. A ticker is taken for subscribed when it trades, or when no
error came for a while; an error that names no ticker is explained by the feed's ``Probe``.
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

# After an error the probe waits for others, then asks, then waits for the answer.
ANSWER_TIMEOUT_S = 3 * ANSWER_TIMEOUT_S

NO_TICKERS = "A capture needs at least one ticker: end it instead."


@dataclass(slots=True)
class _PendingChange:
    """A change that was carried out, and whose sender waits to hear what became of it."""

    name: str
    change: ChangeRequest
    added: tuple[str, ...]
    removed: tuple[str, ...]
    #: What was known when it was carried out: trades of each ticker, errors about subscriptions.
    received: dict[str, int]
    errors: int
    heard: int
    quiet: Deadline | None = None


class TickerChanger:
    """Looks for changes, carries them out, answers; one thread."""

    def __init__(
        self,
        inbox: ChangeInbox,
        handle: CaptureControl,
        feed: FeedClient,
        journal: SessionJournal,
        intake: Intake,
        clock: Clock,
    ) -> None:
        self._inbox, self._handle, self._feed = inbox, handle, feed
        self._journal, self._intake, self._clock = journal, intake, clock
        self._pending: list[_PendingChange] = []
        self._failed = False

    def apply_changes(self) -> None:
        """Carry out what was asked for since, and answer what has become clear."""
        for change in self._handle.take_changes():
            self._apply(change)
        try:
            for name, change in self._inbox.take():
                self._apply(change, name)
            for pending in [each for each in self._pending if self._is_answered(each)]:
                self._pending.remove(pending)
                self._answer(pending)
        except (StoreError, OSError) as error:  # whoever asked waits in vain; the capture goes on
            if not self._failed:
                self._journal.on_notice(f"changes of tickers cannot be taken or answered: {error}")
            self._failed = True

    def close(self) -> None:
        """Answer all who wait: the capture ends."""
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
            text = f"tickers are not changed ({change.requested_by}): all would be removed"
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
            errors = self._journal.refusals
            self._pending.append(
                _PendingChange(name, change, added, removed, received, errors, errors)
            )

    def _is_answered(self, pending: _PendingChange) -> bool:
        """Whether it is known what became of a change, as far as it can be."""
        journal, report = self._journal, self._journal.report
        if not journal.connected:
            return True
        # A later change may have undone it: then there is nothing to wait for.
        wanted, had = set(self._feed.tickers), set(report.tickers)
        added = wanted.intersection(pending.added)
        if not added <= had or had.intersection(pending.removed) - wanted:
            return False
        if not {ticker for ticker in added if self._is_waiting(ticker, pending)}:
            return True
        if journal.refusals != pending.heard:
            pending.heard = journal.refusals
            pending.quiet = Deadline.after(ANSWER_TIMEOUT_S, self._clock)
        elif pending.quiet is None:
            pending.quiet = Deadline.after(ANSWER_TIMEOUT_S, self._clock)
        return pending.quiet.passed()

    def _is_waiting(self, ticker: str, pending: _PendingChange) -> bool:
        """Whether ``ticker`` may be served as well as refused, for all that is known."""
        return (
            ticker not in self._journal.report.refused
            and self._intake.received[ticker] == pending.received[ticker]
        )

    def _answer(self, pending: _PendingChange) -> None:
        journal, captured = self._journal, self._feed.tickers
        named = [ticker for ticker in pending.change.tickers if ticker in captured]
        told = journal.report.refused
        refused = {ticker: told[ticker] for ticker in named if ticker in told}
        unclear = bool(pending.added) and not refused and journal.refusals != pending.errors
        self._inbox.answer(
            pending.name,
            ChangeOutcome(
                captured,
                pending.added,
                pending.removed,
                refused,
                journal.last_refusal if unclear else "",
                journal.connected,
            ),
        )
