"""Controls a running capture from another thread: stop it, or change its tickers."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stocktrace.trade import parse_tickers

ChangeAction = Literal["add", "remove", "set"]


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A change of the tickers that are captured when it is applied."""

    action: ChangeAction
    tickers: tuple[str, ...]
    requested_by: str

    def apply_to(self, captured: Sequence[str]) -> tuple[str, ...]:
        """Return the tickers to capture instead of ``captured``; empty if all are removed."""
        if self.action == "set":
            return self.tickers
        if self.action == "add":
            return tuple(dict.fromkeys([*captured, *self.tickers]))
        removed = set(self.tickers)
        return tuple(ticker for ticker in captured if ticker not in removed)


class CaptureControl:
    """Controls a running capture from another thread."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.reason = ""
        self._changes: queue.SimpleQueue[ChangeRequest] = queue.SimpleQueue()

    def stop(self, reason: str = "stopped") -> None:
        """End the capture cleanly, before its end time."""
        self.reason = reason
        self.stopping.set()

    def request_change(
        self, tickers: str | Sequence[str], action: ChangeAction = "set", *, by: str = "library"
    ) -> None:
        """Capture ``tickers`` instead, or add them to the others, or remove them.

        Several threads may call it at once; changes are applied in order. ``by`` says who asks, for
        the audit log and the report.

        Raises:
            TickerError: a ticker is not valid.
        """
        self._changes.put(ChangeRequest(action, parse_tickers(tickers), by))

    def take_changes(self) -> Iterator[ChangeRequest]:
        """Yield the changes since the last call, in order."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._changes.get_nowait()
