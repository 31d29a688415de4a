"""Changes of tickers that are requested from a running capture, applied to it and answered.

Other processes request them through the data folder:

    sessions/<session>.changes/<time>_<random>.json     the request
    sessions/<session>.changes/<time>_<random>.answer   its outcome

The capture makes the folder when it has its session's lock: a user who may write there may change
its tickers. A request appears whole, by rename. The capture takes it by deleting it, and the sender
withdraws it by deleting it, so exactly one side succeeds and nothing is applied twice. Requests of
several senders are taken in the order of their names, which is by time. The folder ends with the
capture: nothing here is synced to disk, and no other session applies a request.

Finnhub does not acknowledge subscriptions. A ticker counts as subscribed when it trades, or when no
error arrived for a while. For an error without a ticker, the feed finds out which one it means
(``feed.subscriptions``).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import ChangeTimeout, SessionNotRunning, StoreError, TickerError
from stocktrace.feed.subscriptions import ANSWER_TIMEOUT_S
from stocktrace.live.control import CaptureControl, ChangeRequest
from stocktrace.sessions.catalog import is_in_use
from stocktrace.store import files
from stocktrace.store.layout import Layout
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:  # slow to import, and a sender does not need them
    from stocktrace.feed.client import FeedClient
    from stocktrace.record.intake import Intake
    from stocktrace.record.journal import SessionJournal

# A person waits for the answer, and ten looks a second at a small folder cost nothing.
_POLL_INTERVAL_S = 0.1
# After an error the feed waits for others, then asks, then waits for the answer.
EXPLANATION_TIMEOUT_S = 3 * ANSWER_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """The outcome of a change.

    ``error`` says why nothing was changed. ``refused`` are requested tickers that the server does
    not serve, with its words; ``unanswered`` is a refusal that names no ticker. Without a
    connection, tickers are added when there is one.
    """

    captured: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    unanswered: str = ""
    connected: bool = False
    error: str = ""


# --- the sender's side -----------------------------------------------------------------------


def request_change(
    layout: Layout, session: str, change: ChangeRequest, within: float, clock: Clock = SYSTEM_CLOCK
) -> ChangeOutcome:
    """Change the tickers of a running capture; wait ``within`` seconds for the outcome.

    Raises:
        SessionNotRunning: the session ended before it answered.
        ChangeTimeout: it did not answer in time; the message says whether it may still do so.
        StoreError: its folder cannot be written.
    """
    folder = layout.ticker_requests(session)
    name = f"{clock.wall():020}_{secrets.token_hex(4)}"
    path, answer = folder / f"{name}.json", folder / f"{name}.answer"
    deadline, never = Deadline.after(within, clock), threading.Event()
    ended = SessionNotRunning(f"Session {session} ended before it answered the change.")
    try:
        _write(path, msgspec.json.encode(change))
        while True:
            # The lock is asked first: a capture that has just ended has answered before.
            is_running = is_in_use(layout, session)
            with contextlib.suppress(FileNotFoundError):
                return msgspec.json.decode(answer.read_bytes(), type=ChangeOutcome)
            if not is_running:
                raise ended
            if deadline.passed():
                raise ChangeTimeout(session, within, withdrawn=_withdraw(path))
            never.wait(min(_POLL_INTERVAL_S, deadline.remaining()))
    except FileNotFoundError:  # the folder was removed
        raise ended from None
    finally:
        path.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
        if not is_in_use(layout, session):
            with contextlib.suppress(OSError):  # another sender has not read its answer yet
                folder.rmdir()


def _withdraw(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


# --- the capture's side ----------------------------------------------------------------------


@contextlib.contextmanager
def open_inbox(layout: Layout, session: str) -> Iterator[Path]:
    """Make the folder of a session's requests, and remove the folders of crashed sessions."""
    for folder in layout.sessions.glob("*.changes"):
        if not is_in_use(layout, folder.stem):
            shutil.rmtree(folder, ignore_errors=True)  # another capture may remove it just now
    inbox = layout.ticker_requests(session)
    inbox.mkdir()
    try:
        yield inbox
    finally:
        with contextlib.suppress(OSError):  # an answer may still have to be read
            inbox.rmdir()


def take_requests(inbox: Path) -> Iterator[tuple[str, ChangeRequest]]:
    """Yield the new requests, each with its name. An invalid one is answered at once."""
    try:
        paths = sorted(path for path in inbox.iterdir() if path.match("[0-9]*.json"))
    except FileNotFoundError:  # somebody removed the folder
        return
    for path in paths:
        try:
            text = path.read_bytes()
            path.unlink()
        except FileNotFoundError:
            continue  # withdrawn
        try:
            change = msgspec.json.decode(text, type=ChangeRequest)
            tickers = parse_tickers(change.tickers)  # any process may have written the file
        except (msgspec.MsgspecError, TickerError) as error:
            sentence = f"It is not a valid change of tickers: {error}"
            write_answer(inbox, path.stem, ChangeOutcome(error=sentence))
            continue
        yield path.stem, replace(change, tickers=tickers)


def write_answer(inbox: Path, name: str, outcome: ChangeOutcome) -> None:
    """Write the outcome of the request ``name`` for its sender; may raise ``StoreError``."""
    with contextlib.suppress(FileNotFoundError):  # somebody removed the folder
        _write(inbox / f"{name}.answer", msgspec.json.encode(outcome))


def _write(path: Path, text: bytes) -> None:
    temporary = files.temporary_for(path)
    with files.disk_errors(path):
        temporary.write_bytes(text)
        temporary.replace(path)


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
    #: The new refusals at the last look, and when to stop waiting for another.
    seen_refusals: int = 0
    deadline: Deadline | None = None


@dataclass(slots=True)
class TickerChanger:
    """Takes changes, applies them and answers, on the thread that called ``capture``.

    Those of ``CaptureControl`` and of the data folder are applied in turn: a relative change is
    relative to the tickers at that moment.
    """

    inbox: Path
    control: CaptureControl
    feed: FeedClient
    journal: SessionJournal
    intake: Intake
    clock: Clock
    _pending: list[_PendingChange] = field(default_factory=list)
    _has_failed: bool = False

    def apply_changes(self) -> None:
        """Apply new changes, and answer those whose outcome is known."""
        for change in self.control.take_changes():
            self._apply(change)
        try:
            for name, change in take_requests(self.inbox):
                self._apply(change, name)
            for pending in [each for each in self._pending if self._is_answered(each)]:
                self._pending.remove(pending)
                self._answer(pending)
        except (StoreError, OSError) as error:  # the sender times out; the capture continues
            if not self._has_failed:
                self.journal.on_notice(f"changes of tickers cannot be read or answered: {error}")
            self._has_failed = True

    def close(self) -> None:
        """Answer all senders, because the capture ends."""
        try:
            for pending in self._pending:
                self._answer(pending)
            for name, _ in take_requests(self.inbox):
                write_answer(self.inbox, name, ChangeOutcome(error="The capture is ending."))
        except (StoreError, OSError) as error:
            self.journal.on_notice(f"changes of tickers cannot be answered: {error}")
        self._pending = []

    def _apply(self, change: ChangeRequest, name: str | None = None) -> None:
        captured = self.feed.tickers
        wanted = change.apply_to(captured)
        if not wanted:
            text = f"tickers are not changed ({change.requested_by}): it would remove all of them"
            self.journal.record("retarget-refused", text, logging.WARNING, by=change.requested_by)
            if name is not None:
                error = "A capture needs at least one ticker: end it instead."
                write_answer(self.inbox, name, ChangeOutcome(captured, error=error))
            return
        had, keeps = set(captured), set(wanted)
        added = tuple(ticker for ticker in wanted if ticker not in had)
        removed = tuple(ticker for ticker in captured if ticker not in keeps)
        if added or removed:
            from stocktrace.store.segments import make_folders_ahead  # not needed by a sender

            make_folders_ahead(self.journal.layout, added)
            self.journal.on_ticker_change(self.clock.wall(), change.requested_by, added, removed)
            self.feed.set_tickers(wanted)
        if name is not None:
            received = {ticker: self.intake.received[ticker] for ticker in added}
            refusals = self.journal.refusals
            self._pending.append(_PendingChange(name, change, added, removed, received, refusals))

    def _is_answered(self, pending: _PendingChange) -> bool:
        journal, report = self.journal, self.journal.report
        if not journal.connected:
            return True
        # A later change may have undone it: then nothing remains to be seen.
        wanted, subscribed = set(self.feed.tickers), set(report.tickers)
        added = wanted.intersection(pending.added)
        if not added <= subscribed or subscribed.intersection(pending.removed) - wanted:
            return False
        received = self.intake.received
        undecided = [name for name in added if received[name] == pending.received[name]]
        if report.refused.keys() >= set(undecided):
            return True
        refusals = journal.refusals - pending.refusals
        if refusals != pending.seen_refusals:
            pending.seen_refusals = refusals
            pending.deadline = Deadline.after(EXPLANATION_TIMEOUT_S, self.clock)
        elif pending.deadline is None:
            pending.deadline = Deadline.after(ANSWER_TIMEOUT_S, self.clock)
        return pending.deadline.passed()

    def _answer(self, pending: _PendingChange) -> None:
        journal, captured = self.journal, self.feed.tickers
        refusals = journal.report.refused
        named = [ticker for ticker in pending.change.tickers if ticker in captured]
        refused = {ticker: refusals[ticker] for ticker in named if ticker in refusals}
        is_unclear = pending.added and not refused and journal.refusals != pending.refusals
        unanswered = journal.last_refusal if is_unclear else ""
        added, removed = pending.added, pending.removed
        outcome = ChangeOutcome(captured, added, removed, refused, unanswered, journal.connected)
        write_answer(self.inbox, pending.name, outcome)
