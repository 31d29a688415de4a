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

from stocktrace.deadline import NS_PER_SECOND
from stocktrace.record.receipts import Receipts
from stocktrace.settings import Settings
from stocktrace.store.batch import Chunk
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.store.read import Numbering, Read
from stocktrace.store.tape import Frames, Mark, TapeWriter
from stocktrace.store.window import RollPolicy, Window

# What is read is decoded with what the next reads bring, for up to a second or half a megabyte: a
# call costs 0.3 ms whatever it is given, and 3 µs for each ticker in it. With thousands of tickers
# more is held, so that each has some rows.
_HELD_NS, _HELD_BYTES, _MANY_BYTES = NS_PER_SECOND, 1 << 19, 1 << 22
# After this share of ``flush_every`` what waits is due: it is asked four times a second at least.
_ON_TIME = 0.75
# A batch costs 40 µs for each ticker in it, above all its file: with so many more it gathers
# twice as much.
_TICKERS = 2500


@dataclass(slots=True)
class Recording:
    """One window on its way to disk."""

    window: Window
    tape: TapeWriter
    #: Counted by the feed's thread; the recorder reads it after the window has closed.
    receipts: Receipts = field(default_factory=Receipts)
    #: Tickers whose queue was full: their segments are had from the tape.
    spilled: set[str] = field(default_factory=set)
    numbering: Numbering = field(default_factory=Numbering)

    @property
    def part(self) -> Part:
        """Its names on disk."""
        return Part.of(self.window)


class TickerQueue:
    """The trades of one ticker that wait for the recorder: one producer, one consumer."""

    def __init__(self, ticker: str, capacity: int) -> None:
        self.ticker = ticker
        self._capacity = capacity
        self._chunks: deque[tuple[Recording, Read, range]] = deque()
        self._put = 0
        self._taken = 0
        #: Whether the queue stands in the line of those with something to take.
        self.listed = False

    @property
    def rows(self) -> int:
        """Trades that wait."""
        return self._put - self._taken

    def put(self, recording: Recording, read: Read, rows: range) -> bool:
        """Append; ``False`` if there is no room, and nothing was appended."""
        count = len(rows)
        if self._put - self._taken + count > self._capacity:
            return False
        self._chunks.append((recording, read, rows))
        self._put += count
        return True

    def take(self, recording: Recording) -> list[Chunk]:
        """All that waits of one window; what belongs to a later one stays."""
        chunks: list[Chunk] = []
        while self._chunks and self._chunks[0][0] is recording:
            _, read, rows = self._chunks.popleft()
            self._taken += len(rows)
            chunks.append((read, rows))
        return chunks


@dataclass(frozen=True, slots=True)
class Limits:
    """Trades that may wait: for one ticker, in all, and until the recorder is woken.

    It is woken for fewer before one of them has waited for ``flush_every_s``.
    """

    queue_rows: int
    backlog_rows: int
    batch_rows: int
    flush_every_s: float = 1.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that are set."""
        return cls(
            settings.queue_rows, settings.backlog_rows, settings.batch_rows, settings.flush_every
        )


class Intake:
    """Appends to the tape, rolls it, decodes, and fills the queues."""

    def __init__(
        self,
        layout: Layout,
        session: str,
        policy: RollPolicy,
        limits: Limits,
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
        self.heard = stamp
        #: When the last trade of each ticker was received, epoch ns.
        self.last: dict[str, int] = {}
        #: Texts of the server's error frames; whoever reads them takes them.
        self.errors: list[str] = []
        self._flush_ns = int(limits.flush_every_s * _ON_TIME * NS_PER_SECOND)
        # Since when the first waits of what came after the last flush, epoch ns; 0: nothing came.
        self._waits_since = 0
        self._held: list[Frames] = []
        self._held_bytes = 0
        self._numbers = 0
        self._given = 0
        self.taken = 0  # written by the recorder alone
        self.queues: dict[str, TickerQueue] = {}
        self.listed: deque[TickerQueue] = deque()
        self.recordings: deque[Recording] = deque()
        self.wake = threading.Event()
        self._open(stamp)

    @property
    def current(self) -> Recording:
        """The window that is being received."""
        return self.recordings[-1]

    @property
    def backlog(self) -> int:
        """Trades that wait in all queues."""
        return self._given - self.taken

    @property
    def stretch(self) -> int:
        """By how much a batch gathers more, and longer, for the tickers that there are."""
        return 1 + len(self.queues) // _TICKERS

    def frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        """Take in what one read of the socket brought at ``stamp`` (epoch ns).

        It is on the tape when this returns. It is decoded a moment later: with what the next reads
        bring, or by ``tick``; an error of the server, which may answer a question, at once.
        """
        self._roll(stamp)
        lines = self.current.tape.append(stamp, frames)
        self.heard = stamp
        self._held.append(Frames(stamp, frames))
        self._held_bytes += len(lines)
        most = _HELD_BYTES if self.stretch == 1 else _MANY_BYTES
        self._waits_since = self._waits_since or stamp
        if (
            self._held_bytes >= most
            or not 0 <= stamp - self._held[0].stamp < _HELD_NS
            or self._is_due(stamp)
            or _tell_of_an_error(lines)
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
        if self.backlog >= min(limits.batch_rows * self.stretch, limits.backlog_rows // 2):
            self.wake.set()

    def _flush(self, stamp: int) -> None:
        """Wake the recorder for whatever waits, if it is time."""
        if self._is_due(stamp):
            self._waits_since = 0
            self.wake.set()

    def _is_due(self, stamp: int) -> bool:
        longest = self._flush_ns * self.stretch
        return self._waits_since > 0 and not 0 <= stamp - self._waits_since < longest

    def spill(self) -> None:
        """The tape of the current window holds more than the queues got: all is had from it."""
        if self.recordings:
            received = self.current.receipts.received
            self.current.spilled.update(received, self.state["tickers"])

    def mark(self, mark: Mark) -> None:
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
        tape = TapeWriter(self._layout.tape(Part.of(window)))
        tape.mark(Mark(stamp, "tape", {"session": self._session, **self.state}))
        self.recordings.append(Recording(window, tape))

    def _put(self, recording: Recording, read: Read) -> None:
        self.last.update(read.latest)
        for ticker, rows in read.parts:
            self.received[ticker] += len(rows)
            if ticker not in recording.spilled:
                self._put_in_queue(recording, read, ticker, rows)

    def _put_in_queue(self, recording: Recording, read: Read, ticker: str, rows: range) -> None:
        queue = self.queues.get(ticker)
        if queue is None:
            queue = self.queues[ticker] = TickerQueue(ticker, self._limits.queue_rows)
        if self.backlog + len(rows) > self._limits.backlog_rows or not queue.put(
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


def _tell_of_an_error(lines: bytes) -> bool:
    """Whether an error frame may be among them."""
    # To search for one byte is all but free, and trades have no "o" in the names of their members.
    return b"o" in lines and b'"error"' in lines
