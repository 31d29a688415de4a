"""The feed: one connection to the exchange, in a thread of its own, that mends itself.

                 start()                handshake, subscribe
        IDLE ───────────▶ CONNECTING ────────────────────────▶ LISTENING
                            ▲    │ refused: wait (backoff)          │ lost: note the gap, wait
                            └────┴──────────────────────────────────┘
        any ── stop(), 401/403, a bad certificate, an observer that raised ──▶ ENDED

One thread dials, so there are never two dials at once, and the old socket is closed before the
next. The observer is called on that thread; what it raises ends the feed and is raised again,
chained, by ``check``.
"""
# MERGED """Who is told of the feed."""
# MERGED """Bounds and patience of a feed."""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from websocket import WebSocketException

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import CannotConnect, FeedStopped
from stocktrace.feed.handshake import Dialer, Disconnected
from stocktrace.feed.keepalive import KeepaliveMonitor
from stocktrace.feed.reconnect import Backoff, GapTracker, SharedKeyDetector
from stocktrace.feed.socket import BatchSocket, ReadPacer, SocketRead
from stocktrace.feed.subscriptions import Subscription
from stocktrace.intervals import Gap
from stocktrace.settings import Settings

log = logging.getLogger(__name__)

# How often the thread looks up from an idle socket: bounds the latency of a stop, a change of
# tickers and a roll without frames; four wake-ups a second cost nothing that can be measured.
TICK_S = 0.25


class FeedState(enum.Enum):
    """Where the feed is; the picture in this module's docstring has the moves."""

    IDLE = "idle"
    CONNECTING = "connecting"
    LISTENING = "listening"
    ENDED = "ended"


class FeedClient:
    """One connection to ``url`` for ``tickers``, told to ``observer``."""

    def __init__(
        self,
        url: str,
        key: str,
        tickers: Iterable[str],
        observer: FeedListener,
        policy: FeedPolicy,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._wanted = tuple(dict.fromkeys(tickers))
        self._observer = observer
        self._policy = policy
        self._clock = clock
        self._backoff = Backoff(
            policy.backoff_base_s,
            policy.backoff_cap_s,
            policy.backoff_floor_s,
            policy.stable_s,
        )
        self._answers_pings: bool | None = None
        self._pace = ReadPacer(clock.monotonic())
        self._rival = SharedKeyDetector()
        self._loss = GapTracker()
        self._read_at = 0
        #: Until when it listened, or tried to (epoch ns); 0 while it lives, and if it died.
        self.ended_at = 0
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._dialer = Dialer(url, key, policy.handshake_s, self._stop, clock)
        self.state = FeedState.IDLE
        self.ended = threading.Event()
        # A daemon: one that hangs in the system must not hold up the process's end.
        self._thread = threading.Thread(target=self._run, name="stocktrace-feed", daemon=True)

    # --- what other threads call -------------------------------------------------------------

    def set_gap_start(self, since: int, reason: str) -> None:
        """Before the start: nobody has listened since then (epoch ns), and why."""
        self._loss = GapTracker(since, reason)

    def start(self) -> None:
        """Dial, in the feed's own thread."""
        self._thread.start()

    @property
    def tickers(self) -> tuple[str, ...]:
        """The tickers that are asked for."""
        return self._wanted

    def set_tickers(self, tickers: Iterable[str]) -> None:
        """Change the tickers; the connection is told within a tick, or when there is one."""
        self._wanted = tuple(dict.fromkeys(tickers))  # one assignment: atomic for the feed's thread

    def stop(self, deadline: Deadline) -> bool:
        """End the feed; whether its thread ended before the deadline.

        After this returns the observer is called no more, unless it is in a call already.
        """
        self._stop.set()
        if self._thread.ident is None:
            return True  # it was never started
        self.ended.wait(min(2 * TICK_S, deadline.remaining()))
        if not self.ended.is_set():
            self._dialer.abort()
            self.ended.wait(deadline.remaining())
        if not self.ended.is_set():
            log.warning("the feed's thread does not end (%s); it is left behind", self.state.value)
        return self.ended.is_set()

    def raise_failure(self) -> None:
        """Raise what ended the feed, if anything did.

        Raises:
            CannotConnect: another dial would end in the same way, as after a 401.
            FeedStopped: the feed's thread died; the cause is chained.
        """
        if isinstance(self._failure, CannotConnect):
            raise self._failure
        if self._failure is not None:
            raise FeedStopped(
                f"The feed stopped: {type(self._failure).__name__}: {self._failure}"
            ) from self._failure

    # --- the feed's thread -------------------------------------------------------------------

    def _run(self) -> None:
        self._loss.start(self._clock.wall(), self._clock.monotonic())
        try:
            try:
                while not self._stop.is_set():
                    self._connect_and_listen()
            except CannotConnect as error:
                error.__context__ = None  # the library's error can quote the request, and the key
                self._failure = error
            stamp = self._clock.wall()
            ended_at = stamp if self._loss.since else self._read_at
            self._close_gap(stamp)
            self.ended_at = ended_at
        except BaseException as error:  # noqa: BLE001 - kept, and raised by check()
            self._failure = error
        finally:
            self._dialer.abort()
            self.state = FeedState.ENDED
            self.ended.set()

    def _connect_and_listen(self) -> None:
        """One dial and, if it succeeds, one life of the connection; then the wait for the next."""
        self.state = FeedState.CONNECTING
        too_many_dials = False
        reason: str | None
        try:
            socket = self._dialer.dial()
        except Exception as error:  # noqa: BLE001 - whatever the library makes of an odd answer
            reason, too_many_dials = self._dialer.describe_failure(error)
        else:
            reason = self._listen(socket)
        if reason is None or self._stop.is_set():
            return
        self._loss.reason = reason
        wait = self._backoff.next_delay(too_many_dials=too_many_dials)
        self._observer.on_retry(self._clock.wall(), reason, wait)
        retry = Deadline.after(wait, self._clock)
        while not retry.passed() and not self._stop.wait(min(TICK_S, retry.remaining())):
            self._observer.on_tick(self._clock.wall())

    def _listen(self, socket: BatchSocket) -> str | None:
        """Subscribe and read until the connection ends; the reason, or ``None`` if stopped."""
        born = self._clock.monotonic()
        policy = self._policy
        watchdog = KeepaliveMonitor(
            policy.ping_interval_s,
            policy.pong_timeout_s,
            policy.frame_timeout_s,
            policy.idle_timeout_s,
            born,
            self._answers_pings,
        )
        self._loss.dial_started()
        subscription = Subscription(socket, self._observer.has_traded, self._clock)
        reason: str | None = None
        try:
            with self._sending(socket, policy.handshake_s):
                subscription.begin(self._wanted)
            self.state = FeedState.LISTENING
            self._read_at = stamp = self._clock.wall()
            self._loss.data_received(stamp, self._clock.monotonic())
            self._close_gap(stamp)
            self._observer.on_connected(stamp, subscription.tickers)
            while not self._stop.is_set():
                reason = self._read(socket, watchdog, subscription)
                if reason is not None:
                    break
                if subscription.tickers is not self._wanted:
                    self._change_subscription(socket, subscription)
            else:
                with contextlib.suppress(OSError, WebSocketException):  # a courtesy
                    socket.send_close()
        except Disconnected as lost:
            reason = str(lost)
        finally:
            socket.shutdown()
            self._answers_pings = watchdog.answers_pings
        if reason is not None:
            self._on_lost(reason, self._clock.monotonic() - born)
        return reason

    def _read(
        self, socket: BatchSocket, watchdog: KeepaliveMonitor, subscription: Subscription
    ) -> str | None:
        """One read; the reason if it was the last."""
        batch: SocketRead | None
        try:
            batch = socket.recv_batch()
        except TimeoutError:
            batch = None
        except (OSError, WebSocketException) as error:
            raise self._dialer.as_disconnect(error) from error
        self._read_at = stamp = self._clock.wall()
        now = self._clock.monotonic()
        if batch is not None:
            self._loss.data_received(stamp, now)
            watchdog.received(
                now, completed=batch.frame_completed, in_frame=socket.in_frame, pong=batch.pongs > 0
            )
        if batch is not None and batch.frames:
            errors = self._observer.on_frames(stamp, batch.frames)
            self._report_refusals(subscription, errors, stamp, now)
        if batch is None or not batch.frames or batch.closed is not None:
            self._report_refusals(subscription, self._observer.on_tick(stamp), stamp, now)
        if batch is not None:
            if batch.closed is not None:
                return self._dialer.scrub(batch.closed)
            if wait := self._pace.delay_after(batch.size, now, drained=batch.drained):
                time.sleep(wait)  # an event's wait takes twice the processor's time
        reason = watchdog.failure(now)
        if reason is None:
            self._send_due(socket, watchdog, subscription, now)
        return reason

    def _send_due(
        self,
        socket: BatchSocket,
        watchdog: KeepaliveMonitor,
        subscription: Subscription,
        now: float,
    ) -> None:
        """Send what is due: a ping, a question for a ticker that may be refused."""
        suspect = subscription.next_question(now)
        ping = watchdog.ping_due(now)
        if not (ping or suspect):
            return
        with self._sending(socket, self._policy.pong_timeout_s):
            if ping:
                socket.ping()
            if suspect:
                subscription.resubscribe(suspect)

    @contextlib.contextmanager
    def _sending(self, socket: BatchSocket, within_s: float) -> Iterator[None]:
        """Around what is sent, and nothing else: the peer may not read."""
        socket.settimeout(within_s)
        try:
            yield
        except (OSError, WebSocketException) as error:
            raise self._dialer.as_disconnect(error) from error
        socket.settimeout(TICK_S)

    def _report_refusals(
        self, subscription: Subscription, errors: Iterable[str], stamp: int, now: float
    ) -> None:
        for ticker, text in subscription.refusals_in(errors, now):
            self._observer.on_refused(stamp, ticker, text)

    def _change_subscription(self, socket: BatchSocket, subscription: Subscription) -> None:
        """Other tickers are wanted."""
        with self._sending(socket, self._policy.handshake_s):
            added, removed = subscription.change(self._wanted)
        if added or removed:
            self._observer.on_subscription(self._clock.wall(), added, removed)

    def _on_lost(self, reason: str, lived: float) -> None:
        self._backoff.connection_ended(lived)
        stamp = self._clock.wall()
        self._loss.disconnected(stamp, self._clock.monotonic(), reason)
        if self.state is FeedState.LISTENING:
            self._observer.on_disconnected(stamp, reason)
        if suspicion := self._rival.connection_ended(lived):
            self._observer.on_notice(stamp, suspicion)

    def _close_gap(self, stamp: int) -> None:
        if gap := self._loss.end_gap(stamp, self._clock.monotonic(), self._wanted):
            self._observer.on_gap(gap)


class FeedListener(Protocol):
    """What is told of the feed; every call comes from the feed's thread, stamps are epoch ns."""

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> Iterable[str]:
        """Messages as received, all of one read; gives the texts of error frames so far."""

    def has_traded(self, ticker: str) -> bool:
        """Whether a trade of ``ticker`` ever came; asked when the server refuses one unnamed."""

    def on_refused(self, stamp: int, ticker: str, text: str) -> None:
        """The server does not serve ``ticker``; ``text`` is its word."""

    def on_tick(self, stamp: int) -> Iterable[str]:
        """Time passed without messages; gives the texts of error frames, too."""

    def on_connected(self, stamp: int, tickers: Sequence[str]) -> None:
        """The handshake is done and ``tickers`` have been asked for."""

    def on_disconnected(self, stamp: int, reason: str) -> None:
        """A connection that had listened is lost."""

    def on_gap(self, gap: Gap) -> None:
        """A loss is over, or the feed ends in the middle of one."""

    def on_subscription(self, stamp: int, added: Sequence[str], removed: Sequence[str]) -> None:
        """The tickers of a live connection have been changed."""

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """A dial failed or a connection was lost; the next dial is in ``wait_s``."""

    def on_notice(self, stamp: int, text: str) -> None:
        """Something that a person should know."""


@dataclass(frozen=True, slots=True)
class FeedPolicy:
    """Bounds and patience of a feed; seconds. The reasons stand beside the settings."""

    handshake_s: float
    ping_interval_s: float
    pong_timeout_s: float
    frame_timeout_s: float
    idle_timeout_s: float
    backoff_base_s: float
    backoff_cap_s: float
    backoff_floor_s: float
    stable_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of ``settings``."""
        return cls(
            handshake_s=settings.handshake_timeout,
            ping_interval_s=settings.ping_interval,
            pong_timeout_s=settings.pong_timeout,
            frame_timeout_s=settings.frame_timeout,
            idle_timeout_s=settings.idle_timeout,
            backoff_base_s=settings.backoff_base,
            backoff_cap_s=settings.backoff_cap,
            backoff_floor_s=settings.backoff_floor,
            stable_s=settings.stable_after,
        )
