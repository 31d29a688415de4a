"""From the feed's thread to the recorder's: the tape first, then one bounded queue per ticker.

Everything here runs on the feed's thread and never waits: a full queue is not waited for, its
ticker is marked as *spilled* for the window and had from the tape when the window is rolled.

Two threads share a queue without a lock. The producer only appends and counts what it put, the
consumer only pops and counts what it took; CPython's ``deque`` makes each append and pop atomic.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from stocktrace.record.window_counts import WindowCounts
from stocktrace.settings import Settings
from stocktrace.store.batch import Chunk
from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeFrames, TapeMark, TapeWriter
from stocktrace.store.window import RollPolicy, WindowSpec
from stocktrace.units import NS_PER_SECOND

# What is read is decoded with what the next reads bring, for up to a second or half a megabyte: a
# call costs 0.3 ms whatever it is given, and 3 µs for each ticker in it. With thousands of tickers
# more is held, so that each has some rows.
_HELD_NS, _HELD_BYTES, _MANY_BYTES = NS_PER_SECOND, 1 << 19, 1 << 22
# After this share of ``flush_interval`` what waits is due: it is asked four times a second at least.
_ON_TIME = 0.75
# A batch costs 40 µs for each ticker in it, above all its file: with so many more it gathers
# twice as much.
_TICKERS = 2500


@dataclass(slots=True)
class OpenWindow:
    """One window on its way to disk."""

    window: WindowSpec
    tape: TapeWriter
    #: Counted by the feed's thread; the recorder reads it after the window has closed.
    receipts: WindowCounts = field(default_factory=WindowCounts)
    #: Tickers whose queue was full: their segments are had from the tape.
    spilled: set[str] = field(default_factory=set)
    numbering: TickerCodes = field(default_factory=TickerCodes)

    @property
    def part(self) -> WindowId:
        """Its names on disk."""
        return WindowId.of_window(self.window)


class TickerQueue:
    """The trades of one ticker that wait for the recorder: one producer, one consumer."""

    def __init__(self, ticker: str, capacity: int) -> None:
        self.ticker = ticker
        self._capacity = capacity
        self._chunks: deque[tuple[OpenWindow, DecodedRead, range]] = deque()
        self._put = 0
        self._taken = 0
        #: Whether the queue stands in the line of those with something to take.
        self.listed = False

    @property
    def rows(self) -> int:
        """Trades that wait."""
        return self._put - self._taken

    def put(self, recording: OpenWindow, read: DecodedRead, rows: range) -> bool:
        """Append; ``False`` if there is no room, and nothing was appended."""
        count = len(rows)
        if self._put - self._taken + count > self._capacity:
            return False
        self._chunks.append((recording, read, rows))
        self._put += count
        return True

    def take(self, recording: OpenWindow) -> list[Chunk]:
        """All that waits of one window; what belongs to a later one stays."""
        chunks: list[Chunk] = []
        while self._chunks and self._chunks[0][0] is recording:
            _, read, rows = self._chunks.popleft()
            self._taken += len(rows)
            chunks.append((read, rows))
        return chunks


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Trades that may wait: for one ticker, in all, and until the recorder is woken.

    It is woken for fewer before one of them has waited for ``flush_interval_s``.
    """

    max_pending_rows_per_ticker: int
    max_pending_rows: int
    batch_rows: int
    flush_interval_s: float = 1.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The limits that are set."""
        return cls(
            settings.max_pending_rows_per_ticker,
            settings.max_pending_rows,
            settings.batch_rows,
            settings.flush_interval,
        )


class Intake:
    """Appends to the tape, rolls it, decodes, and fills the queues."""

    def __init__(
        self,
        layout: Layout,
        session: str,
        policy: RollPolicy,
        limits: QueueLimits,
        stamp: int,
        tickers: Sequence[str] = (),
    ) -> None:
        """Begin the first window at ``stamp`` (epoch ns), before ``tickers`` are asked for."""
        self._layout = layout
        self._session = session
        self._policy = policy
        self._limits = limits
        #: How the feed stands, for the first line of the next tape.
        self.state: dict[str, Any] = {"connected": False, "tickers": list(tickers)}
        #: Trades of each ticker since the session began.
        self.received: Counter[str] = Counter()
        #: When frames were received last, or the connection stood, epoch ns.
        self.last_data_at = stamp
        #: When the last trade of each ticker was received, epoch ns.
        self.last: dict[str, int] = {}
        #: Texts of the server's error frames; whoever reads them takes them.
        self.errors: list[str] = []
        self._flush_ns = int(limits.flush_interval_s * _ON_TIME * NS_PER_SECOND)
        # Since when the first waits of what came after the last flush, epoch ns; 0: nothing came.
        self._waits_since = 0
        self._held: list[TapeFrames] = []
        self._held_bytes = 0
        self._numbers = 0
        self._given = 0
        self.taken = 0  # written by the recorder alone
        self.queues: dict[str, TickerQueue] = {}
        self.listed: deque[TickerQueue] = deque()
        self.recordings: deque[OpenWindow] = deque()
        self.wake = threading.Event()
        self._open(stamp)

    @property
    def current(self) -> OpenWindow:
        """The window that is being received."""
        return self.recordings[-1]

    @property
    def pending_rows(self) -> int:
        """Trades that wait in all queues."""
        return self._given - self.taken

    @property
    def set_tickers(self) -> int:
        """By how much a batch gathers more, and longer, for the tickers that there are."""
        return 1 + len(self.queues) // _TICKERS

    def frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        """Take in what one read of the socket brought at ``stamp`` (epoch ns).

        It is on the tape when this returns. It is decoded a moment later: with what the next reads
        bring, or by ``tick``; an error of the server, which may answer a question, at once.
        """
        self._roll(stamp)
        lines = self.current.tape.append(stamp, frames)
        self.last_data_at = stamp
        self._held.append(TapeFrames(stamp, frames))
        self._held_bytes += len(lines)
        most = _HELD_BYTES if self.set_tickers == 1 else _MANY_BYTES
        self._waits_since = self._waits_since or stamp
        if (
            self._held_bytes >= most
            or not 0 <= stamp - self._held[0].stamp < _HELD_NS
            or self._is_due(stamp)
            or _may_hold_error(lines)
        ):
            self.decode()
        self._flush(stamp)

    def decode(self) -> None:
        """Decode what is held, count it, and fill the queues."""
        if not self._held:
            return
        recording = self.current
        held, self._held, self._held_bytes = self._held, [], 0
        try:
            for read, errors in recording.receipts.decode(held, recording.numbering):
                self.errors += errors
                self._put(recording, read)
        except BaseException:  # no memory, say; it is raised where the feed ends
            self.spill()
            raise
        # At half of what may wait at the latest: there must be room for what comes meanwhile.
        limits = self._limits
        if self.pending_rows >= min(
            limits.batch_rows * self.set_tickers, limits.max_pending_rows // 2
        ):
            self.wake.set()

    def _flush(self, stamp: int) -> None:
        """Wake the recorder for whatever waits, if it is time."""
        if self._is_due(stamp):
            self._waits_since = 0
            self.wake.set()

    def _is_due(self, stamp: int) -> bool:
        longest = self._flush_ns * self.set_tickers
        return self._waits_since > 0 and not 0 <= stamp - self._waits_since < longest

    def spill(self) -> None:
        """The tape of the current window holds more than the queues got: all is had from it."""
        if self.recordings:
            received = self.current.receipts.received
            self.current.spilled.update(received, self.state["tickers"])

    def mark(self, mark: TapeMark) -> None:
        """Write on the tape what happened to the connection."""
        self._roll(mark.stamp)
        self.current.tape.mark(mark)

    def tick(self, stamp: int) -> None:
        """Time passed without frames, until ``stamp`` (epoch ns)."""
        self.decode()
        self._flush(stamp)
        self._roll(stamp)

    def _roll(self, stamp: int) -> None:
        """Begin the window of ``stamp``, if it is a new one."""
        if self._policy.due(self.current.window, stamp, self.current.tape.size):
            self.decode()
            self._open(stamp)
            self.wake.set()

    def _open(self, stamp: int) -> None:
        self._numbers += 1
        window = self._policy.open(self._session, self._numbers, stamp)
        tape = TapeWriter(self._layout.tape(WindowId.of_window(window)))
        tape.mark(TapeMark(stamp, "tape", {"session": self._session, **self.state}))
        self.recordings.append(OpenWindow(window, tape))

    def _put(self, recording: OpenWindow, read: DecodedRead) -> None:
        self.last.update(read.last_received_ns)
        for ticker, rows in read.ticker_rows:
            self.received[ticker] += len(rows)
            if ticker not in recording.spilled:
                self._put_in_queue(recording, read, ticker, rows)

    def _put_in_queue(
        self, recording: OpenWindow, read: DecodedRead, ticker: str, rows: range
    ) -> None:
        queue = self.queues.get(ticker)
        if queue is None:
            queue = self.queues[ticker] = TickerQueue(
                ticker, self._limits.max_pending_rows_per_ticker
            )
        if self.pending_rows + len(rows) > self._limits.max_pending_rows or not queue.put(
            recording, read, rows
        ):
            recording.spilled.add(ticker)
            return
        self._given += len(rows)
        # The recorder takes a queue off the line before it empties it: a chunk that it misses
        # finds the queue unlisted and lists it again.
        if not queue.listed:
            queue.listed = True
            self.listed.append(queue)


def _may_hold_error(lines: bytes) -> bool:
    """Whether an error frame may be among them."""
    # To search for one byte is all but free, and trades have no "o" in the names of their members.
    return b"o" in lines and b'"error"' in lines
