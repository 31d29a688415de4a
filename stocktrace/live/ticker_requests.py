"""Changes of tickers that other processes request through the data folder of a running capture.

    sessions/<session>.changes/<time>_<random>.json     the request
    sessions/<session>.changes/<time>_<random>.answer   its outcome

The capture makes the folder when it has its session's lock: a user who may write there may change
its tickers. A request appears whole, by rename. The capture takes it by deleting it, and the sender
withdraws it by deleting it, so exactly one side succeeds and nothing is applied twice. Requests of
several senders are taken in the order of their names, which is by time. The folder ends with the
capture: nothing here is synced to disk, and no other session applies a request.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import ChangeTimeout, SessionNotRunning, TickerError
from stocktrace.live.control import ChangeRequest
from stocktrace.sessions.catalog import is_in_use
from stocktrace.store import files
from stocktrace.store.layout import Layout
from stocktrace.trade import parse_tickers

# A person waits for the answer, and ten looks a second at a small folder cost nothing.
_POLL_INTERVAL_S = 0.1


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


# --- the capture's side ----------------------------------------------------------------------


@contextlib.contextmanager
def open_inbox(layout: Layout, session: str) -> Iterator[ChangeInbox]:
    """Make the folder of a session's requests, and remove the folders of crashed sessions."""
    for folder in layout.sessions.glob("*.changes"):
        if not is_in_use(layout, folder.stem):
            shutil.rmtree(folder, ignore_errors=True)  # another capture may remove it just now
    inbox = ChangeInbox(layout.ticker_requests(session))
    inbox.folder.mkdir()
    try:
        yield inbox
    finally:
        with contextlib.suppress(OSError):  # an answer may still have to be read
            inbox.folder.rmdir()


@dataclass(frozen=True, slots=True)
class ChangeInbox:
    """Takes requests out of the folder and writes answers into it; one thread."""

    folder: Path

    def take(self) -> Iterator[tuple[str, ChangeRequest]]:
        """Yield the new requests, each with its name. An invalid one is answered at once.

        Raises:
            OSError: the folder cannot be changed.
        """
        try:
            paths = sorted(path for path in self.folder.iterdir() if path.match("[0-9]*.json"))
        except FileNotFoundError:  # somebody removed the folder
            return
        for path in paths:
            try:
                text = path.read_bytes()
                path.unlink()
            except FileNotFoundError:
                continue  # withdrawn
            try:
                change = _parse_change(text)
            except (msgspec.MsgspecError, TickerError) as error:
                sentence = f"It is not a valid change of tickers: {error}"
                self.answer(path.stem, ChangeOutcome(error=sentence))
                continue
            yield path.stem, change

    def answer(self, name: str, outcome: ChangeOutcome) -> None:
        """Write the outcome of the request ``name`` for its sender.

        Raises:
            StoreError: it cannot be written.
        """
        with contextlib.suppress(FileNotFoundError):  # somebody removed the folder
            _write(self.folder / f"{name}.answer", msgspec.json.encode(outcome))


def _parse_change(text: bytes) -> ChangeRequest:
    """Check the tickers again, because any process may have written the file."""
    change = msgspec.json.decode(text, type=ChangeRequest)
    return ChangeRequest(change.action, parse_tickers(change.tickers), change.requested_by)


def _write(path: Path, text: bytes) -> None:
    temporary = files.temporary_for(path)
    with files.disk_errors(path):
        temporary.write_bytes(text)
        temporary.chmod(0o644)  # another user's process reads it
        temporary.replace(path)


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
