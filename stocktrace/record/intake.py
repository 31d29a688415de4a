"""The feed's thread: append to the tape, decode and count, and fill one bounded queue per ticker.

Nothing here waits. If a queue is full, its ticker *spills* for the window: it is rebuilt from the
tape when the window has ended.

Two threads share a queue without a lock. The producer only appends and counts the rows that it put,
the consumer only pops and counts those that it took; each append and pop of CPython's ``deque`` is
atomic.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from stocktrace.feed import protocol
from stocktrace.marks import ConnectedMark, DisconnectedMark, Mark, OpeningMark, SubscriptionMark
from stocktrace.record.feed_lag import FeedLag
from stocktrace.sessions.report import Books, add_error
from stocktrace.settings import Settings
from stocktrace.store.batch import Chunk
from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.files import OpenFolder
from stocktrace.store.layout import Layout
from stocktrace.store.names import RollPolicy, WindowId, WindowSpec
from stocktrace.store.quarantine import QuarantinedRow
from stocktrace.store.tape import TapeFrames, TapeWriter
from stocktrace.trade_columns import TradeColumns
from stocktrace.units import NS_PER_SECOND

# Reads are held and decoded together, for up to a second or half a megabyte: a call has a fixed
# cost of 0.3 ms, and of 3 µs for each ticker in it. With thousands of tickers more bytes are held,
# so that each ticker has some rows.
_HELD_NS, _HELD_BYTES, _MANY_HELD_BYTES = NS_PER_SECOND, 1 << 19, 1 << 23
# Waiting rows are due after this share of ``flush_interval``, because that is checked only four
# times a second when no data comes.
_DUE_SHARE = 0.75
# So many tickers are named that nobody asked for.
_OTHERS_NAMED = 3
# A batch costs 15 µs for each ticker in it, mainly for its file. With each so many tickers more,
# batches are larger by their normal size.
_TICKERS_PER_BATCH = 1250


@dataclass(slots=True)
class WindowCounts:
    """Counts of one window, live or again from its tape; times are in epoch ns.

    ``asked_for`` are the tickers that the feed was subscribed to in the window; empty, as in an
    import, means all. Trades of others are counted and stay on the tape; ``others`` has a few
    of their names. ``refused_rows`` wait for the quarantine. ``undecoded`` counts them by ticker,
    "" without one.
    """

    books: Books = field(default_factory=Books)
    received: Counter[str] = field(default_factory=Counter)
    undecoded: Counter[str] = field(default_factory=Counter)
    last_trades: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    refused_rows: list[QuarantinedRow] = field(default_factory=list)
    asked_for: set[str] = field(default_factory=set)
    others: list[str] = field(default_factory=list)

    def ask_for(self, mark: Mark) -> None:
        """Add the tickers that ``mark`` subscribes; decode first what was received before it."""
        match mark:
            case OpeningMark() | ConnectedMark():
                self.asked_for.update(mark.tickers)
            case SubscriptionMark():
                self.asked_for.update(mark.added)

    def _leave_out_others(self, rows: TradeColumns) -> TradeColumns:
        """Return the rows of tickers that were asked for, and count the others."""
        asked_for = self.asked_for
        if not asked_for or asked_for.issuperset(rows.tickers):
            return rows
        wanted = rows.of_tickers(asked_for)
        self.books.unrequested += len(rows) - len(wanted)
        if len(self.others) < _OTHERS_NAMED:
            names = [name for name in rows.tickers if name not in {*asked_for, *self.others}]
            self.others += names[: _OTHERS_NAMED - len(self.others)]
        return wanted

    def decode(
        self, arrivals: Sequence[TapeFrames], numbering: TickerCodes
    ) -> Iterator[DecodedRead]:
        """Decode and count ``arrivals``; yield one read, or one each if rows are refused."""
        decoded = protocol.decode(
            list(chain.from_iterable([arrival.frames for arrival in arrivals]))
        )
        if decoded.refusals and len(arrivals) > 1:  # a refused row needs its receive time
            for arrival in arrivals:
                yield from self.decode([arrival], numbering)
            return
        read = DecodedRead(arrivals, self._leave_out_others(decoded.rows), numbering)
        books = self.books
        books.frames += len(decoded.rows.counts)
        books.trade_frames += decoded.trade_frames
        books.control += decoded.control
        books.undecodable += decoded.undecodable
        books.trades += decoded.refused_trades + len(read)
        for text in decoded.errors:
            add_error(self.errors, text)
        for refusal in decoded.refusals:
            row = refusal.row
            self.refused_rows.append(
                QuarantinedRow(arrivals[0].stamp, refusal.frame, row, refusal.reason)
            )
            if row is not None:
                symbol = row.get("s") if isinstance(row, dict) else None
                name = symbol if isinstance(symbol, str) else ""
                self.undecoded[name if name in (self.asked_for or (name,)) else ""] += 1
        for ticker, rows in read.ticker_rows:
            self.received[ticker] += len(rows)
        self.last_trades.update(read.last_received_ns)
        yield read


@dataclass(slots=True)
class OpenWindow:
    """One window on its way to disk."""

    spec: WindowSpec
    tape: TapeWriter
    #: The feed's thread counts; the recorder reads them after the window has ended.
    counts: WindowCounts = field(default_factory=WindowCounts)
    #: Tickers whose queue was full: their segments are rebuilt from the tape.
    spilled: set[str] = field(default_factory=set)
    numbering: TickerCodes = field(default_factory=TickerCodes)
    #: Whether the recorder has written a batch.
    has_segments: bool = False

    @property
    def id(self) -> WindowId:
        """Its names on disk."""
        return WindowId.of_window(self.spec)


class TickerQueue:
    """The trades of one ticker that wait for the recorder: one producer, one consumer."""

    def __init__(self, ticker: str, capacity: int) -> None:
        self.ticker = ticker
        self._capacity = capacity
        self._chunks: deque[tuple[OpenWindow, Chunk]] = deque()
        self._put = 0
        self._taken = 0
        #: True while the queue is in ``Intake.listed``.
        self.listed = False

    @property
    def rows(self) -> int:
        """The number of waiting trades."""
        return self._put - self._taken

    def put(self, window: OpenWindow, read: DecodedRead, rows: range) -> bool:
        """Append rows; return ``False`` if there is not enough room for all of them."""
        count = len(rows)
        if self._put - self._taken + count > self._capacity:
            return False
        self._chunks.append((window, (read, rows)))
        self._put += count
        return True

    def take(self, window: OpenWindow) -> tuple[list[Chunk], int]:
        """Remove all rows of one window; return them and their number; later windows' stay."""
        waiting, chunks, count = self._chunks, list[Chunk](), 0
        while waiting and waiting[0][0] is window:
            chunk = waiting.popleft()[1]
            chunks.append(chunk)
            count += len(chunk[1])
        self._taken += count
        return chunks, count


class Intake:
    """Appends to the tape, begins new windows, decodes, and fills the queues."""

    def __init__(
        self,
        layout: Layout,
        session: str,
        settings: Settings,
        stamp: int,
        tickers: Sequence[str] = (),
        folder: OpenFolder | None = None,
    ) -> None:
        """Begin the first window at ``stamp`` (epoch ns), before ``tickers`` are subscribed.

        No window begins while ``folder``, that of the data, is not in its place.
        """
        self._layout = layout
        self._session = session
        self._policy = RollPolicy(settings.roll_interval, settings.roll_size)
        self._max_rows = settings.max_pending_rows
        self._max_rows_per_ticker = settings.max_pending_rows_per_ticker
        self._batch_rows = settings.batch_rows
        self._folder = folder
        # The connection, for the first line of the next tape.
        self._connected = False
        self._tickers = tuple(tickers)
        #: Trades of each ticker since the session began.
        self.received: Counter[str] = Counter()
        #: When the last frames were received or the connection began, epoch ns.
        self.last_data_at = stamp
        #: When the last trade of each ticker was received, epoch ns.
        self.last_trade_at: dict[str, int] = {}
        #: How far the feed is behind the exchanges.
        self.feed_lag = FeedLag()
        self._flush_ns = int(settings.flush_interval * _DUE_SHARE * NS_PER_SECOND)
        # When the first read after the last flush came, epoch ns; 0 if none came.
        self._waits_since = 0
        self._held: list[TapeFrames] = []
        self._held_bytes = 0
        self._window_count = 0
        self._put = 0
        self.taken = 0  # only the recorder writes it
        self.queues: dict[str, TickerQueue] = {}
        #: Queues with waiting trades, in the order in which they got them.
        self.listed: deque[TickerQueue] = deque()
        #: The current window is the last; the recorder seals the ones before.
        self.windows: deque[OpenWindow] = deque()
        self.wake = threading.Event()
        self._open_window(stamp)

    @property
    def current(self) -> OpenWindow:
        """The window that is being received."""
        return self.windows[-1]

    @property
    def pending_rows(self) -> int:
        """The number of trades that wait in all queues."""
        return self._put - self.taken

    @property
    def batch_scale(self) -> int:
        """The factor by which batches are larger, and later, because there are many tickers.

        The first batch of a window creates a file for each of its tickers, which takes longer than
        any other batch: it is small, so that the queues have room while it is written.
        """
        return self._ticker_scale if self.current.has_segments else 1

    @property
    def _ticker_scale(self) -> int:
        return 1 + len(self.queues) // _TICKERS_PER_BATCH

    def add_frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        """Take in the frames of one read of the socket at ``stamp`` (epoch ns).

        They are on the tape when this returns. They are decoded a moment later, together with those
        of the next reads or by ``tick``.
        """
        self._roll(stamp)
        lines = self.current.tape.append(stamp, frames)
        self.last_data_at = stamp
        self._held.append(TapeFrames(stamp, frames))
        self._held_bytes += len(lines)
        most = _HELD_BYTES if self._ticker_scale == 1 else _MANY_HELD_BYTES
        self._waits_since = self._waits_since or stamp
        if (
            self._held_bytes >= most
            or not 0 <= stamp - self._held[0].stamp < _HELD_NS
            or self._is_due(stamp)
        ):
            self.decode()
        self._flush(stamp)

    def add_mark(self, mark: Mark) -> None:
        """Append a mark to the tape, and note what it says about the connection."""
        self._roll(mark.stamp)
        if isinstance(mark, (ConnectedMark, SubscriptionMark)):
            self.decode()
            self.current.counts.ask_for(mark)
        self.current.tape.append_mark(mark)
        if isinstance(mark, ConnectedMark):
            self._connected, self._tickers = True, mark.tickers
            self.last_data_at = mark.stamp
            self.feed_lag.connection_opened(mark.stamp)
        elif isinstance(mark, DisconnectedMark):
            self._connected = False
        elif isinstance(mark, SubscriptionMark):
            self._tickers = mark.change(self._tickers)

    def tick(self, stamp: int) -> None:
        """Take in that time passed without frames, until ``stamp`` (epoch ns)."""
        self.decode()
        self._flush(stamp)
        self._roll(stamp)

    def decode(self) -> None:
        """Decode the held frames, count them, and fill the queues."""
        if not self._held:
            return
        window = self.current
        held, self._held, self._held_bytes = self._held, [], 0
        try:
            for read in window.counts.decode(held, window.numbering):
                self._enqueue(window, read)
        except BaseException:  # a MemoryError, say; the feed reports it
            self.spill()
            raise
        # At half of the maximum at the latest, to leave room for rows that come in the meantime.
        if self.pending_rows >= min(self._batch_rows * self.batch_scale, self._max_rows // 2):
            self.wake.set()

    def spill(self) -> None:
        """Spill all tickers of the current window: its tape has more than the queues got."""
        if self.windows:
            self.current.spilled.update(self.current.counts.received, self._tickers)

    def _flush(self, stamp: int) -> None:
        """Wake the recorder, if rows are due."""
        if self._is_due(stamp):
            self._waits_since = 0
            self.wake.set()

    def _is_due(self, stamp: int) -> bool:
        longest = self._flush_ns * self.batch_scale
        return self._waits_since > 0 and not 0 <= stamp - self._waits_since < longest

    def _roll(self, stamp: int) -> None:
        """Begin the window of ``stamp``, if it is a new one."""
        if self._policy.due(self.current.spec, stamp, self.current.tape.size) and (
            self._folder is None or self._folder.is_in_place
        ):
            self.decode()
            self._open_window(stamp)
            self.wake.set()

    def _open_window(self, stamp: int) -> None:
        self._window_count += 1
        spec = self._policy.open(self._session, self._window_count, stamp)
        tape = TapeWriter(self._layout.tape(WindowId.of_window(spec)))
        connected, tickers = self._connected, self._tickers
        mark = OpeningMark(stamp, session=self._session, connected=connected, tickers=tickers)
        tape.append_mark(mark)
        window = OpenWindow(spec, tape)
        window.counts.ask_for(mark)
        self.windows.append(window)

    def _enqueue(self, window: OpenWindow, read: DecodedRead) -> None:
        self.last_trade_at.update(read.last_received_ns)
        self.feed_lag.add(read)
        received, queues, spilled = self.received, self.queues, window.spilled
        for ticker, rows in read.ticker_rows:
            count = len(rows)
            received[ticker] += count
            if ticker in spilled:
                continue
            queue = queues.get(ticker)
            if queue is None:
                queue = queues[ticker] = TickerQueue(ticker, self._max_rows_per_ticker)
            has_room = self._put - self.taken + count <= self._max_rows
            if not (has_room and queue.put(window, read, rows)):
                spilled.add(ticker)
                continue
            self._put += count
            # The recorder takes a queue off the list before it empties it. So if it misses a chunk,
            # the queue is not listed any more, and is listed again here.
            if not queue.listed:
                queue.listed = True
                self.listed.append(queue)
