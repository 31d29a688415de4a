"""Changes of tickers on their way to a running capture, through its data folder.

    sessions/<session>.changes/<time>_<random>.json     what is asked for
    sessions/<session>.changes/<time>_<random>.answer   what became of it

The capture makes the folder when it has its session's lock: who may write in it may steer. A
change appears by rename, whole; it is taken by deleting it and withdrawn by deleting it, so exactly
one side succeeds and nothing is applied twice. Changes of several senders are taken in the order of
their names, that is of time. All of it ends with the capture: nothing here is synced to the disk,
and no other session takes a change over.
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

# A person waits; ten looks a second at a small folder cost nothing.
_POLL_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """What became of a change.

    ``error`` says why nothing was changed, if so. ``refused`` are those asked for that
    the server does not serve, with its words; ``unclear`` is a refusal of it that could not be
    attributed. Without a connection, what was added is asked for when there is one.
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
    """The folder of a session's changes, while its lock is held; those of the dead are swept."""
    for folder in layout.sessions.glob("*.changes"):
        if not is_in_use(layout, folder.stem):
            shutil.rmtree(folder, ignore_errors=True)  # another capture may be at it, too
    taken = ChangeInbox(layout.ticker_requests(session))
    taken.folder.mkdir()
    try:
        yield taken
    finally:
        with contextlib.suppress(OSError):  # an answer may be there that is still to be read
            taken.folder.rmdir()


@dataclass(frozen=True, slots=True)
class ChangeInbox:
    """Takes changes out of the folder and puts answers into it; one thread."""

    folder: Path

    def take(self) -> Iterator[tuple[str, ChangeRequest]]:
        """The changes that were sent since, each with its name; what is none is answered.

        Raises:
            OSError: the folder is not ours to change.
        """
        try:
            sent = sorted(path for path in self.folder.iterdir() if path.match("[0-9]*.json"))
        except FileNotFoundError:  # somebody removed the folder
            return
        for path in sent:
            try:
                text = path.read_bytes()
                path.unlink()
            except FileNotFoundError:
                continue  # withdrawn
            try:
                change = _parse_change(text)
            except (msgspec.MsgspecError, TickerError) as error:
                self.answer(path.stem, ChangeOutcome(error=f"It is no change of tickers: {error}"))
                continue
            yield path.stem, change

    def answer(self, name: str, outcome: ChangeOutcome) -> None:
        """Tell the sender of the change ``name`` what became of it.

        Raises:
            StoreError: it cannot be written.
        """
        with contextlib.suppress(FileNotFoundError):  # somebody removed the folder
            _write_request(self.folder / f"{name}.answer", msgspec.json.encode(outcome))


def _parse_change(text: bytes) -> ChangeRequest:
    """Read again what anybody may have written."""
    change = msgspec.json.decode(text, type=ChangeRequest)
    return ChangeRequest(change.action, parse_tickers(change.tickers), change.requested_by)


def _write_request(path: Path, text: bytes) -> None:
    temporary = files.temporary_for(path)
    with files.disk_errors(path):
        temporary.write_bytes(text)
        temporary.chmod(0o644)  # another user's process reads it
        temporary.replace(path)


# --- the sender's side -----------------------------------------------------------------------


def request_change(
    layout: Layout, session: str, change: ChangeRequest, within: float, clock: Clock = SYSTEM_CLOCK
) -> ChangeOutcome:
    """Have a running capture change its tickers; waits ``within`` seconds for what became of it.

    Raises:
        NotRunning: the session ended before it answered.
        NotTaken: it did not answer in time; the sentence tells whether it may do so yet.
        StoreError: nothing can be written in its folder.
    """
    folder = layout.ticker_requests(session)
    name = f"{clock.wall():020}_{secrets.token_hex(4)}"
    path, answer = folder / f"{name}.json", folder / f"{name}.answer"
    deadline, tick = Deadline.after(within, clock), threading.Event()
    ended = SessionNotRunning(f"Session {session} ended before it told what became of the change.")
    try:
        _write_request(path, msgspec.json.encode(change))
        while True:
            # Whether it lives is asked first: what ends just now has answered before.
            alive = is_in_use(layout, session)
            with contextlib.suppress(FileNotFoundError):
                return msgspec.json.decode(answer.read_bytes(), type=ChangeOutcome)
            if not alive:
                raise ended
            if deadline.passed():
                raise ChangeTimeout(session, within, withdrawn=_withdraw(path))
            tick.wait(min(_POLL_INTERVAL_S, deadline.remaining()))
    except FileNotFoundError:  # the folder is gone
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
