"""Coverage: for each ticker and moment of a session, *listening* or *gap, because …*.

Built from the marks on the tape, live and again from disk, so that it can never say something else
than what was recorded. A ticker's intervals follow one another without a hole from when it was
first asked for until it was given up or the session ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stocktrace.intervals import CONNECTING, CoverageInterval
from stocktrace.store.tape import TapeMark


class _OnTickers(msgspec.Struct):
    """The facts of ``tape`` and ``connected``."""

    tickers: list[str]
    connected: bool = True


class _OnDisconnected(msgspec.Struct):
    """Those of ``disconnected``; of ``gap`` and ``paused``, too, which tell when it began."""

    reason: str
    start: int = 0


class _OnSubscription(msgspec.Struct):
    """Those of ``subscription``."""

    added: list[str]
    removed: list[str]


class _OnRefused(msgspec.Struct):
    """Those of ``refused``."""

    tickers: list[str]
    text: str


class _OnCovered(msgspec.Struct):
    """Those of ``covered``: a stretch that others listened to, or did not; in a merge."""

    ticker: str
    start: int
    end: int
    reason: str
    sources: str


class _OnOther(msgspec.Struct):
    """Those of ``ended``."""


@dataclass(slots=True)
class CoverageBuilder:
    """Grows from marks; ``close`` ends it. One thread.

    ``losses`` counts how often the connection was lost, ``unreadable`` marks without the facts that
    their name promises.
    """

    intervals: list[CoverageInterval] = field(default_factory=list)
    disconnects: int = 0
    unreadable: int = 0
    _open: dict[str, tuple[int, str]] = field(default_factory=dict)
    _connected: bool = False
    _last_data: int = 0
    _detected: int = 0
    _disconnect: tuple[int, str] | None = None

    def data_received(self, stamp: int) -> None:
        """Frames came; only known when a tape is read again."""
        self._last_data = stamp

    def add(self, mark: TapeMark) -> None:
        """Take in what happened; marks of other names say nothing about coverage."""
        acts: dict[str, tuple[type[msgspec.Struct], Callable[[int, Any], None]]] = {
            "tape": (_OnTickers, self._on_tape),
            "connected": (_OnTickers, self._on_connected),
            "disconnected": (_OnDisconnected, self._on_disconnected),
            "gap": (_OnDisconnected, self._on_gap),
            "subscription": (_OnSubscription, self._on_subscription),
            "paused": (_OnDisconnected, self._on_paused),
            "refused": (_OnRefused, self._on_refused),
            "covered": (_OnCovered, self._on_covered),
            "ended": (_OnOther, lambda stamp, _: self.close(stamp)),
        }
        if mark.name not in acts:
            return
        kind, act = acts[mark.name]
        try:
            facts = msgspec.convert(mark.facts, kind)
        except msgspec.ValidationError:
            self.unreadable += 1
            return
        act(mark.stamp, facts)

    def _on_tape(self, stamp: int, facts: _OnTickers) -> None:
        # The first line of each window; it says something new only if it is the first we see.
        if not self._open and not self.intervals:
            self._retarget(stamp, facts.tickers)
            if facts.connected:
                self._connected = True
                self._switch(self._open, stamp, "")

    def _on_connected(self, stamp: int, facts: _OnTickers) -> None:
        if self._disconnect is not None:
            self._switch(self._open, *self._disconnect)
        self._retarget(stamp, facts.tickers)
        self._connected, self._disconnect, self._last_data = True, None, stamp
        self._switch(self._open, stamp, "")

    def _on_disconnected(self, stamp: int, facts: _OnDisconnected) -> None:
        self._connected = False
        self.disconnects += 1
        self._detected = stamp
        self._disconnect = (self._last_data or stamp, facts.reason)

    def _on_gap(self, stamp: int, facts: _OnDisconnected) -> None:
        self._disconnect = None
        for ticker, (begin, _) in list(self._open.items()):
            if begin > stamp:  # the clock was set back: what is open began and ended by the old one
                self._end(ticker, self._detected)
                self._open[ticker] = (facts.start, facts.reason)
        self._switch(self._open, facts.start, facts.reason)

    def _on_subscription(self, stamp: int, facts: _OnSubscription) -> None:
        for ticker in facts.removed:
            if ticker in self._open:
                self._end(ticker, stamp)
        for ticker in facts.added:
            self._open.setdefault(ticker, (stamp, "" if self._connected else CONNECTING))

    def _on_paused(self, stamp: int, facts: _OnDisconnected) -> None:
        # Nobody read the socket meanwhile: what the system could not hold was lost.
        listening = [ticker for ticker, (_, reason) in self._open.items() if not reason]
        self._switch(listening, facts.start, facts.reason)
        for ticker in listening:
            self._end(ticker, stamp)
            self._open[ticker] = (stamp, "")  # before its start, if the clock was set back

    def _on_refused(self, stamp: int, facts: _OnRefused) -> None:
        self._switch(facts.tickers, stamp, f"subscription refused: {facts.text}")

    def _on_covered(self, stamp: int, facts: _OnCovered) -> None:
        del stamp
        stretch = CoverageInterval(
            facts.ticker, facts.start, facts.end, facts.reason, facts.sources
        )
        self.intervals.append(stretch)

    def crashed(self, heard: int, reason: str) -> None:
        """The feed ended at ``heard`` without a word, as when the tape cannot be written."""
        self._disconnect = (heard, self._disconnect[1] if self._disconnect is not None else reason)

    def close(self, stamp: int) -> None:
        """The session ended, or died, at ``stamp``."""
        if self._disconnect is not None:
            self._switch(self._open, *self._disconnect)
        for ticker in list(self._open):
            self._end(ticker, stamp)

    def outages(self) -> dict[tuple[int, int, str], int]:
        """The gaps as (start, end, reason), with the number of tickers each was of, by time."""
        gaps = (each for each in self.intervals if each.reason)
        return dict(sorted(Counter((gap.start, gap.end, gap.reason) for gap in gaps).items()))

    def _retarget(self, stamp: int, tickers: Iterable[str]) -> None:
        wanted = dict.fromkeys(tickers)
        for ticker in [each for each in self._open if each not in wanted]:
            self._end(ticker, stamp)
        for ticker in wanted:
            self._open.setdefault(ticker, (stamp, CONNECTING))

    def _switch(self, tickers: Iterable[str], stamp: int, reason: str) -> None:
        for ticker in list(tickers):
            if ticker in self._open and self._open[ticker][1] != reason:
                begin, _ = self._end(ticker, stamp)
                self._open[ticker] = (max(stamp, begin), reason)

    def _end(self, ticker: str, stamp: int) -> tuple[int, str]:
        begin, reason = self._open.pop(ticker)
        if stamp > begin:
            self.intervals.append(CoverageInterval(ticker, begin, stamp, reason))
        return begin, reason
