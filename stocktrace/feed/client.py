"""The feed: one connection to the server, on its own thread, that reconnects by itself.

                 start()                handshake, subscribe
        IDLE ───────────▶ CONNECTING ────────────────────────▶ LISTENING
                            ▲    │ refused: wait (backoff)          │ lost: note the gap, wait
                            └────┴──────────────────────────────────┘
        any ── stop(), 401/403, a bad certificate, an exception of the listener ──▶ ENDED

There is only one connection attempt at a time, and the old socket is closed before the next one.
The listener is called on the feed's thread. An exception that it raises ends the feed, and
``raise_failure`` raises it again, chained. Events go one way: no call of the listener returns a
value.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Protocol

from websocket import WebSocketException

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import CannotConnect, FeedStopped
from stocktrace.feed import protocol
from stocktrace.feed.handshake import ConnectionLost, Dialer
from stocktrace.feed.reconnect import Backoff, GapTracker, KeepaliveMonitor, SharedKeyDetector
from stocktrace.feed.socket import BatchSocket, ReadPacer, SocketRead
from stocktrace.feed.subscriptions import Subscription
from stocktrace.marks import ConnectedMark, DisconnectedMark, Mark, RefusedMark, SubscriptionMark
from stocktrace.settings import Settings

log = logging.getLogger(__name__)

# How long a read waits for data. Bounds the latency of a stop, a change of tickers, and the end of
# a window without frames; four wake-ups a second cost nothing measurable.
TICK_S = 0.25


class FeedState(enum.Enum):
    """State of the feed; the diagram in this module's docstring has the transitions."""

    IDLE = "idle"
    CONNECTING = "connecting"
    LISTENING = "listening"
    ENDED = "ended"


class FeedListener(Protocol):
    """Receives the feed's events, on the feed's thread; ``stamp`` is in epoch ns."""

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        """Messages arrived, all from one read."""

    def on_tick(self, stamp: int) -> None:
        """Time passed without messages."""

    def on_mark(self, mark: Mark) -> None:
        """The connection changed: connected, disconnected, gap, subscription or refused."""

    def on_error(self, text: str) -> None:
        """The server sent an error frame."""

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """An attempt failed or a connection was lost; the next attempt is in ``wait_s``."""

    def on_notice(self, text: str) -> None:
        """Something happened that a person should know."""


class FeedClient:
    """One connection for ``tickers``; ``listener`` receives its events.

    A ticker in ``already_traded`` is never taken for a refused one; only the feed's thread may add
    to it after the start.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        tickers: Iterable[str],
        listener: FeedListener,
        clock: Clock = SYSTEM_CLOCK,
        already_traded: Container[str] = (),
    ) -> None:
        #: The tickers that shall be subscribed; ``set_tickers`` changes them.
        self.tickers = tuple(dict.fromkeys(tickers))
        self._listener = listener
        self._settings = settings
        self._clock = clock
        self._already_traded = already_traded
        self._backoff = Backoff(
            settings.backoff_base,
            settings.backoff_cap,
            settings.backoff_floor,
            settings.stable_after,
        )
        self._keepalive = KeepaliveMonitor(settings)
        self._pacer = ReadPacer(clock.monotonic())
        self._shared_key = SharedKeyDetector()
        self._gap = GapTracker()
        self._read_at = 0
        #: When it stopped listening or connecting (epoch ns); 0 before, and after an exception.
        self.ended_at = 0
        #: The answer that it waited for when it was stopped in a dial; otherwise empty.
        self.unanswered = ""
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._dialer = Dialer(settings.url, key, settings.handshake_timeout, self._stop, clock)
        self.state = FeedState.IDLE
        self.ended = threading.Event()
        # A daemon, because a thread that hangs in a system call must not delay the process's exit.
        self._thread = threading.Thread(target=self._run, name="stocktrace-feed", daemon=True)

    # --- what other threads call -------------------------------------------------------------

    def set_gap_start(self, since: int, reason: str) -> None:
        """Before the start: begin the first gap at ``since`` (epoch ns) and say why."""
        self._gap = GapTracker(since, reason)

    def start(self) -> None:
        """Start connecting, on the feed's own thread."""
        self._thread.start()

    def set_tickers(self, tickers: Iterable[str]) -> None:
        """Change the tickers; a live connection subscribes them within ``TICK_S``."""
        self.tickers = tuple(dict.fromkeys(tickers))  # one assignment: atomic for the feed's thread

    def stop(self, deadline: Deadline) -> bool:
        """Stop the feed and return ``True`` if its thread ended before the deadline.

        After this returns, the listener is not called any more, unless a call has begun already.
        """
        self._stop.set()
        if self._thread.ident is None:
            return True  # it was never started
        if not self.ended.wait(min(2 * TICK_S, deadline.remaining())):
            self._dialer.abort()
            if not self.ended.wait(deadline.remaining()):
                log.warning("the feed's thread did not end (state: %s)", self.state.value)
        return self.ended.is_set()

    def raise_failure(self) -> None:
        """Raise the exception that ended the feed, if there was one.

        Raises:
            CannotConnect: another attempt would end in the same way, as after a 401.
            FeedStopped: an exception ended the feed's thread; it is chained.
        """
        failure = self._failure
        if isinstance(failure, CannotConnect):
            raise failure
        if failure is not None:
            raise FeedStopped(f"The feed stopped: {type(failure).__name__}: {failure}") from failure

    # --- the feed's thread -------------------------------------------------------------------

    def _run(self) -> None:
        self._gap.start(self._clock.wall(), self._clock.monotonic())
        try:
            try:
                while not self._stop.is_set():
                    self._connect_and_listen()
            except CannotConnect as error:
                error.__context__ = None  # the library's error can quote the request with the key
                self._failure = error
            stamp = self._clock.wall()
            ended_at = stamp if self._gap.since else self._read_at
            self._close_gap(stamp)
            self.ended_at = ended_at
        except BaseException as error:  # noqa: BLE001 - raised again by raise_failure()
            self._failure = error
        finally:
            self._dialer.abort()
            self.state = FeedState.ENDED
            self.ended.set()

    def _connect_and_listen(self) -> None:
        """Connect once and listen until the connection ends; then wait before the next attempt."""
        self.state = FeedState.CONNECTING
        rate_limited = False
        reason: str | None
        try:
            socket = self._dialer.dial()
        except Exception as error:  # noqa: BLE001 - the library raises anything for an odd answer
            reason, rate_limited = self._dialer.describe_failure(error)
        else:
            reason = self._listen(socket)
        if self._stop.is_set() and self.state is FeedState.CONNECTING:
            self.unanswered = self._dialer.step
        if reason is None or self._stop.is_set():
            return
        self._gap.attempt_failed(reason)
        wait = self._backoff.next_delay(rate_limited=rate_limited)
        self._listener.on_retry(self._clock.wall(), reason, wait)
        retry = Deadline.after(wait, self._clock)
        while not retry.passed() and not self._stop.wait(min(TICK_S, retry.remaining())):
            self._listener.on_tick(self._clock.wall())

    def _listen(self, socket: BatchSocket) -> str | None:
        """Subscribe and read; return why the connection ended, or ``None`` after ``stop()``."""
        opened = self._clock.monotonic()
        self._keepalive.connection_opened(opened)
        self._gap.connection_opened()
        subscription = Subscription(socket, self._clock, self._already_traded)
        reason: str | None = None
        try:
            with self._sending(socket, self._settings.handshake_timeout):
                subscription.change(self.tickers)
            if socket.write_error is None:
                self._begin_listening(subscription)
            while reason is None and not self._stop.is_set():
                reason = self._read(socket, subscription)
                wants_change = subscription.tickers is not self.tickers
                if reason is None and wants_change and socket.write_error is None:
                    self._change_subscription(socket, subscription)
            if reason is None:
                with contextlib.suppress(OSError, WebSocketException):  # a courtesy
                    socket.send_close()
        except ConnectionLost as lost:
            reason = str(lost)
        finally:
            socket.shutdown()
        if reason is not None:
            self._on_lost(reason, self._clock.monotonic() - opened)
        return reason

    def _begin_listening(self, subscription: Subscription) -> None:
        self.state = FeedState.LISTENING
        self._read_at = stamp = self._clock.wall()
        self._gap.data_received(stamp, self._clock.monotonic())
        self._close_gap(stamp)
        self._listener.on_mark(ConnectedMark(stamp, subscription.tickers))

    def _read(self, socket: BatchSocket, subscription: Subscription) -> str | None:
        """Read once; return why the connection ended, if it did."""
        batch = self._receive(socket)
        self._read_at = stamp = self._clock.wall()
        now = self._clock.monotonic()
        if batch.size:
            if self.state is FeedState.LISTENING:
                self._gap.data_received(stamp, now)
            self._keepalive.received(
                now, completed=batch.frame_completed, in_frame=socket.in_frame, pong=batch.pongs > 0
            )
        if batch.frames:
            self._listener.on_frames(stamp, batch.frames)
            self._find_answers(batch.frames, subscription, stamp, now)
        if not batch.frames or batch.closed is not None:
            self._listener.on_tick(stamp)
        if batch.closed is not None:
            return self._dialer.scrub(batch.closed)
        if batch.size and (wait := self._pacer.delay_after(batch.size, now, drained=batch.drained)):
            time.sleep(wait)  # Event.wait() takes twice the CPU time
        reason = self._keepalive.failure(now)
        if reason is None and socket.write_error is None:
            self._send_due(socket, subscription, now)
        return reason

    def _receive(self, socket: BatchSocket) -> SocketRead:
        """Read once; if nothing can be sent any more, until nothing is left to be read."""
        try:
            return socket.recv_batch()
        except TimeoutError as error:
            if socket.write_error is not None:
                raise self._dialer.as_connection_lost(socket.write_error) from error
            return SocketRead()
        except (OSError, WebSocketException) as error:
            raise self._dialer.as_connection_lost(error) from error

    def _send_due(self, socket: BatchSocket, subscription: Subscription, now: float) -> None:
        """Send a ping, or subscribe a suspect again, if it is time."""
        suspect = subscription.probe.next_suspect(now)
        ping = self._keepalive.ping_due(now)
        if not (ping or suspect):
            return
        with self._sending(socket, self._settings.pong_timeout):
            if ping:
                socket.ping()
            if suspect:
                for command in (protocol.unsubscribe, protocol.subscribe):
                    socket.send(command(suspect))

    @contextlib.contextmanager
    def _sending(self, socket: BatchSocket, timeout_s: float) -> Iterator[None]:
        """Bound the time of a send: the server may have stopped reading.

        An error ends the connection when everything that has arrived was read.
        """
        socket.settimeout(timeout_s)
        try:
            yield
        except (OSError, WebSocketException) as error:
            socket.write_error = error
        socket.settimeout(TICK_S)

    def _find_answers(
        self, frames: Sequence[bytes], subscription: Subscription, stamp: int, now: float
    ) -> None:
        """Report the errors in ``frames``, and the tickers that they refuse."""
        probe = subscription.probe
        errors = protocol.error_texts(frames)
        if errors or probe.is_active:
            probe.traded(protocol.decode(frames).rows.tickers)
        for text in errors:
            self._listener.on_error(text)
            if refused := probe.add_error(text, subscription.tickers, now):
                self._listener.on_mark(RefusedMark(stamp, (refused,), text))

    def _change_subscription(self, socket: BatchSocket, subscription: Subscription) -> None:
        with self._sending(socket, self._settings.handshake_timeout):
            added, removed = subscription.change(self.tickers)
        if socket.write_error is None and (added or removed):
            stamp = self._clock.wall()
            self._listener.on_mark(SubscriptionMark(stamp, tuple(added), tuple(removed)))

    def _on_lost(self, reason: str, seconds: float) -> None:
        self._backoff.connection_ended(seconds)
        stamp = self._clock.wall()
        self._gap.disconnected(stamp, self._clock.monotonic(), reason)
        if self.state is FeedState.LISTENING:
            self._listener.on_mark(DisconnectedMark(stamp, reason, self._gap.since))
        if suspicion := self._shared_key.connection_ended(seconds):
            self._listener.on_notice(suspicion)

    def _close_gap(self, stamp: int) -> None:
        if gap := self._gap.end_gap(stamp, self._clock.monotonic()):
            self._listener.on_mark(gap)
