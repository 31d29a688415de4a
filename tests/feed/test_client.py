"""``FeedClient`` against a server that the test plays itself, and once against the simulator.

Time is the machine's where a test waits for something to happen, and moved by hand where it asks
when it happens.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websocket import WebSocketException

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import FeedError, FeedStopped, KeyRefused
from stocktrace.feed import client, protocol
from stocktrace.feed.client import FeedClient, FeedState
from stocktrace.feed.socket import BatchSocket, SocketRead
from stocktrace.feed.subscriptions import ANSWER_TIMEOUT_S, Subscription
from stocktrace.marks import (
    ConnectedMark,
    DisconnectedMark,
    GapMark,
    Mark,
    RefusedMark,
    SubscriptionMark,
)
from stocktrace.settings import Settings
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SimulatorSettings
from stocktrace.trade import Trade
from stocktrace.units import NS_PER_SECOND
from tests.feed.conftest import (
    BINARY,
    CLOSE,
    PATIENCE,
    PING,
    PONG,
    Hands,
    Listener,
    Peer,
    close,
    deaf,
    frame,
)
from tests.sampling import sizes
from tests.tls import Authority
from tests.waiting import eventually

KEY = "s3cret/key"
TICKERS = ("AAPL", "BINANCE:BTCUSDT")
SUBSCRIBED = [("subscribe", ticker) for ticker in TICKERS]
TRADE = protocol.encode([Trade("AAPL", 1.5, 2, 3.0)])

# For clocks that are moved by hand.
DEFAULTS = Settings.model_construct()
# Patient with the server and quick to redial, for the machine's own clock.
QUICK = DEFAULTS.model_copy(
    update={
        "handshake_timeout": PATIENCE,
        "ping_interval": PATIENCE,
        "pong_timeout": PATIENCE,
        "frame_timeout": PATIENCE,
        "idle_timeout": PATIENCE,
        "backoff_base": 0.001,
        "backoff_cap": 0.002,
        "backoff_floor": 0.001,
        "stable_after": 3600.0,
    }
)


def changed(settings: Settings, **changes: float | str) -> Settings:
    return settings.model_copy(update=changes)


SETTINGS = SimulatorSettings(key=KEY, settle=0.0, second_connection="both-live")
NO_CLOSE_FRAME = "connection lost: TCP ended without a close frame"


class Notes:
    """Notes what it is told, without the stamps, and lets the test wait for it."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.frames: list[bytes] = []
        self.gaps: list[GapMark] = []
        self.waits: list[float] = []
        self.ticks = 0
        self.threads: set[str] = set()
        self.news = threading.Condition()

    def _note(self, *event: object) -> None:
        with self.news:
            self.threads.add(threading.current_thread().name)
            self.events.append(event)
            self.news.notify_all()

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        with self.news:
            self.frames += frames
            self.news.notify_all()

    def on_tick(self, stamp: int) -> None:
        with self.news:
            self.ticks += 1
            self.news.notify_all()

    def on_mark(self, mark: Mark) -> None:
        match mark:
            case ConnectedMark():
                self._note("connected", *mark.tickers)
            case DisconnectedMark():
                self._note("disconnected", mark.reason)
            case GapMark():
                self.gaps.append(mark)
                self._note("gap", mark.reason)
            case SubscriptionMark():
                self._note("subscription", list(mark.added), list(mark.removed))
            case RefusedMark():
                self._note("refused", *mark.tickers, mark.text)
            case _:
                raise AssertionError(mark)

    def on_error(self, text: str) -> None:
        self._note("error", text)

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        self.waits.append(wait_s)
        self._note("retry", reason)

    def on_notice(self, text: str) -> None:
        self._note("notice", text)

    def wait(self, predicate: Callable[[], bool], timeout: float = PATIENCE) -> None:
        with self.news:
            assert self.news.wait_for(predicate, timeout), self.events

    def wait_for(self, *event: object, times: int = 1) -> None:
        """Wait until there are so many events that begin like this."""
        self.wait(lambda: self.count(*event) >= times)

    def count(self, *event: object) -> int:
        return sum(noted[: len(event)] == event for noted in self.events)

    def look_up(self) -> None:
        """Wait until the feed has seen what was sent or changed before.

        A tick may be under way, a second one may have been before the data; and one to spare.
        """
        seen = self.ticks
        self.wait(lambda: self.ticks >= seen + 3)

    def retried(self, number: int) -> float:
        """Wait for this retry, the first being 1, until its time runs; its wait in seconds."""
        self.wait(lambda: len(self.waits) >= number)
        self.look_up()
        assert len(self.waits) == number
        return self.waits[-1]


UNANSWERED = (
    "{server} closed the connection without an answer; if it speaks TLS, its address begins with "
    "wss://"
)

Start = Callable[..., FeedClient]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, notes: Notes, listener: Listener) -> Iterator[Start]:
    """Starts feeds, and stops them."""
    monkeypatch.setattr(client, "TICK_S", 0.01)
    with ExitStack() as feeds:

        def start(
            settings: Settings = QUICK,
            tickers: Sequence[str] = TICKERS,
            clock: Clock = SYSTEM_CLOCK,
            events: Notes = notes,
            url: str = listener.url,
        ) -> FeedClient:
            feed = FeedClient(changed(settings, url=url), KEY, tickers, events, clock)
            feeds.callback(lambda: stopped(feed))
            feed.start()
            return feed

        yield start


def stopped(feed: FeedClient) -> None:
    assert feed.stop(Deadline.after(PATIENCE))
    assert feed.state is FeedState.ENDED


def nothing(peer: Peer) -> None:
    """Answer nothing."""


# --- connecting ------------------------------------------------------------------------------


def test_every_ticker_is_subscribed_once_and_the_connection_is_reported(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start(tickers=["AAPL", "BINANCE:BTCUSDT", "AAPL"])
    peer = listener.upgrade()
    assert peer.commands(2) == SUBSCRIBED
    notes.wait_for("connected")
    assert notes.events == [("gap", "connecting"), ("connected", *TICKERS)]
    assert (feed.state, feed.tickers) == (FeedState.LISTENING, TICKERS)
    feed.raise_failure()
    stopped(feed)
    assert peer.take() == (CLOSE, b"\x03\xe8")
    assert peer.ended()
    assert notes.threads == {"stocktrace-feed"}
    assert len(notes.events) == 2


def test_the_request_has_the_key_as_its_token_and_nothing_else(
    start: Start, listener: Listener
) -> None:
    start()
    request = listener.accept().upgrade()
    line, *headers = request.split("\r\n")
    assert line == "GET /?token=s3cret/key HTTP/1.1"
    assert sorted(header.split(":")[0] for header in headers) == [
        "Connection",
        "Host",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Upgrade",
    ]


def test_an_address_with_a_query_keeps_it(start: Start, listener: Listener) -> None:
    start(url=f"{listener.url}/path?a=1")
    assert listener.accept().request().startswith("GET /path?a=1&token=s3cret/key HTTP/1.1\r\n")


def test_messages_are_passed_on_as_they_came(
    start: Start, listener: Listener, notes: Notes
) -> None:
    start()
    peer = listener.upgrade()
    peer.send(frame(TRADE) + frame(b"\xff\x00", BINARY) + frame(b"", PING) + frame(b"last"))
    notes.wait(lambda: len(notes.frames) == 3)
    assert notes.frames == [TRADE, b"\xff\x00", b"last"]


def test_data_in_the_segment_of_the_handshake_is_passed_on(
    start: Start, listener: Listener, notes: Notes
) -> None:
    start()
    listener.accept().upgrade(more=frame(TRADE))
    notes.wait(lambda: notes.frames == [TRADE])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_it_without_the_key_in_the_text(
    start: Start, listener: Listener, notes: Notes, status: int
) -> None:
    feed = start()
    listener.accept().refuse(status, f"Invalid key {KEY}".encode(), f"Location: {KEY}\r\n")
    assert feed.ended.wait(PATIENCE)
    with pytest.raises(KeyRefused) as refused:
        feed.raise_failure()
    assert refused.value.status == status
    assert isinstance(refused.value, FeedError)
    assert str(refused.value) == (
        f"The server refused the API key (HTTP {status}). "
        "Check FINNHUB_API_KEY at https://finnhub.io/dashboard."
    )
    assert KEY not in "".join(traceback.format_exception(refused.value))
    assert notes.events == [("gap", "connecting")]
    assert feed.state is FeedState.ENDED
    assert not listener.dialled()


def test_a_key_that_is_refused_later_ends_it_and_the_gap_is_reported(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    feed = start(clock=hands.clock(), settings=changed(QUICK, handshake_timeout=1e6))
    peer = listener.upgrade()
    peer.commands(2)
    notes.wait_for("connected")
    hands.wall += 60
    peer.sock.close()
    hands.monotonic += notes.retried(1)
    peer = listener.accept()
    hands.wall += 5
    peer.refuse(401)
    assert feed.ended.wait(PATIENCE)
    with pytest.raises(KeyRefused):
        feed.raise_failure()
    begin = 1_700_000_000
    assert notes.gaps[1:] == [
        GapMark((begin + 65) * NS_PER_SECOND, begin * NS_PER_SECOND, NO_CLOSE_FRAME)
    ]


@pytest.mark.parametrize("status", [200, 400, 429, 500, 503, 524])
def test_any_other_status_is_reported_and_tried_again(
    start: Start, listener: Listener, notes: Notes, hands: Hands, status: int
) -> None:
    start(DEFAULTS, clock=hands.clock())
    for number in (1, 2):
        listener.accept().refuse(status, b"some page")
        hands.monotonic += notes.retried(number)
    listener.upgrade()
    notes.wait_for("connected")
    retry = ("retry", f"HTTP {status} at the handshake")
    assert notes.events == [
        retry,
        retry,
        ("gap", f"HTTP {status} at the handshake"),
        ("connected", *TICKERS),
    ]
    low, high = (60.0, 240.0) if status == 429 else (1.0, 2.0)
    assert all(low <= wait <= high for wait in notes.waits)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\n\r\n", "Redirect limit exhausted"),
        (b"HTTP/1.1 101 Yes\r\n\r\n", "Invalid WebSocket Header"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
         "Invalid WebSocket Header"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "Invalid status line: 'SSH-2.0-OpenSSH'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
         "Invalid content-length header: 'many'"),
        (b"HTTP/1.1 500 " + KEY.encode() + b"\r\nno header s3cret/key\r\n\r\n", "Invalid header"),
        (b"s3cret/key\r\n\r\n", "Invalid status line: '***'"),
        (b"\xff\r\n\r\n", "Invalid header line, not valid UTF-8 at byte 0: b'\\xff\\r\\n'"),
        (b"", UNANSWERED),
        (b"HTTP/1.1 302 Found\r\nSet-Cookie: a\x01=b; domain=[\r\n\r\n", None),
    ],
)  # fmt: skip
def test_an_invalid_answer_is_reported_and_tried_again(
    start: Start, listener: Listener, notes: Notes, answer: bytes, reason: str | None
) -> None:
    start()
    peer = listener.accept()
    peer.request()
    peer.send(answer)
    peer.sock.close()
    listener.upgrade()
    notes.wait_for("connected")
    assert notes.events[0][0] == "retry"
    assert KEY not in str(notes.events)
    if reason is not None:
        reason = reason.format(server=listener.url.removeprefix("ws://"))
        assert notes.events[0] == ("retry", f"cannot connect: {reason}")


class NoHurry:
    """A backoff that waits for ever."""

    def next_delay(self, *, rate_limited: bool) -> float:
        return 1e6


@pytest.mark.parametrize(
    ("error", "told"), [(IndexError(f"x of {KEY}"), "x of ***"), (KeyError(), "KeyError")]
)
def test_an_unexpected_exception_of_the_library_is_a_failed_attempt(
    start: Start, notes: Notes, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(BatchSocket, "connect", connect)
    monkeypatch.setattr(client, "Backoff", lambda *_: NoHurry())
    start()
    notes.wait_for("retry")
    assert notes.events == [("retry", f"cannot connect: {told}")]


def test_a_refused_connection_is_reported_and_tried_again(
    start: Start, listener: Listener, notes: Notes
) -> None:
    start(url="ws://127.0.0.1:1")
    notes.wait_for("retry", times=3)
    assert notes.events[0] == ("retry", "cannot connect: 127.0.0.1:1: Connection refused")


def test_a_handshake_without_an_answer_is_bounded_and_tried_again(
    start: Start, listener: Listener, notes: Notes
) -> None:
    """FAULTS 3."""
    start(changed(QUICK, handshake_timeout=0.2))
    silent = listener.accept()
    notes.wait_for("retry")
    assert notes.events == [("retry", "no answer to the handshake in 0.2 s")]
    assert silent.ended()
    listener.accept()


def test_a_handshake_that_drips_is_bounded_as_a_whole(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    """Each byte is in time for the library, whose time-out is one a read."""
    start(DEFAULTS, clock=hands.clock())
    peer = listener.accept()
    for byte in b"HTTP/1.1 101 Swit":
        peer.send(bytes([byte]))
        hands.monotonic += 0.7
    assert notes.events == []
    hands.monotonic += 0.2
    notes.wait_for("retry", "no answer to the handshake in 12 s")


def test_a_handshake_is_aborted_as_soon_as_there_is_a_socket(
    start: Start, listener: Listener, notes: Notes, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TCP and TLS may take up the time by themselves; the library has no socket until then."""
    real, dialled = BatchSocket.connect, threading.Event()

    def late(self: BatchSocket, url: str, **options: object) -> None:
        hands.monotonic += 100
        dialled.set()
        real(self, url, **options)

    monkeypatch.setattr(BatchSocket, "connect", late)
    start(DEFAULTS, clock=hands.clock())
    assert dialled.wait(PATIENCE)
    notes.wait_for("retry", "no answer to the handshake in 12 s")


@pytest.mark.parametrize("end", ["its time is up", "the feed is stopped"])
@pytest.mark.parametrize("step", ["name lookup", "TCP", "proxy", "TLS", "handshake"])
def test_an_attempt_without_an_answer_ends_at_each_step(
    start: Start,
    listener: Listener,
    notes: Notes,
    hands: Hands,
    sockets: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    end: str,
) -> None:
    """FAULTS 52, 102 and 104: the feed's thread waits for none of them, and names it."""
    url, server = listener.url, listener.url.removeprefix("ws://")
    named = "the handshake"
    if step == "name lookup":
        answer = threading.Event()
        sockets.callback(answer.set)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(PATIENCE) and [])
        named = "the name lookup of 127.0.0.1"
    elif step == "TCP":
        server = f"127.0.0.1:{deaf(sockets)}"
        url, named = f"ws://{server}", f"the connection attempt to {server}"
    elif step == "proxy":
        monkeypatch.setenv("http_proxy", f"http://{server}")
        url, named = "ws://exchange.example", f"CONNECT from the proxy {server}"
    elif step == "TLS":
        url, named = f"wss://{server}", "the TLS handshake"
    feed = start(DEFAULTS, url=url, clock=hands.clock())
    eventually(lambda: feed._dialer._socket.transport.step == named)
    if end == "the feed is stopped":
        assert feed.stop(Deadline.after(PATIENCE / 2))
        assert notes.events == [("gap", "connecting")]
    else:
        hands.monotonic += 12
        notes.wait(lambda: notes.events == [("retry", f"no answer to {named} in 12 s")])


# --- losing a connection ---------------------------------------------------------------------


def test_after_a_drop_all_tickers_are_subscribed_again_and_one_gap_is_reported(
    start: Start, listener: Listener, notes: Notes
) -> None:
    """FAULTS 11 and 13."""
    start()
    for _ in range(2):
        peer = listener.upgrade()
        assert peer.commands(2) == SUBSCRIBED
        peer.sock.close()
    listener.upgrade()
    notes.wait_for("connected", times=3)
    assert notes.events == [
        ("gap", "connecting"),
        ("connected", *TICKERS),
        *[
            ("disconnected", NO_CLOSE_FRAME),
            ("retry", NO_CLOSE_FRAME),
            ("gap", NO_CLOSE_FRAME),
            ("connected", *TICKERS),
        ]
        * 2,
    ]


@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("sent", ["pong", "ping", "other tickers", "first tickers"])
def test_103_what_has_arrived_is_read_although_nothing_can_be_sent(
    start: Start,
    sockets: ExitStack,
    notes: Notes,
    hands: Hands,
    monkeypatch: pytest.MonkeyPatch,
    authority: Authority,
    trusted: Authority,
    sent: str,
    scheme: str,
    end: str,
) -> None:
    """The server has ended, or reset, TCP; the frames are in the buffer of the client's system."""
    monkeypatch.setattr("stocktrace.feed.socket.READ_BYTES", 1 << 10)
    listener = Listener(sockets, authority.server() if scheme == "wss" else None)
    ended = threading.Event()
    sockets.callback(ended.set)

    def when_ended(method: Callable[..., Any]) -> Callable[..., Any]:
        def wait_first(*given: Any) -> Any:
            assert ended.wait(PATIENCE)
            return method(*given)

        return wait_first

    is_first = sent == "first tickers"
    owner: Any = Subscription if is_first else notes
    name = "change" if is_first else "on_frames"
    monkeypatch.setattr(owner, name, when_ended(getattr(owner, name)))
    feed = start(DEFAULTS, url=listener.url, clock=hands.clock())
    peer = listener.upgrade()
    if not is_first:
        peer.commands(2)
    texts = [b"%d" % number for number in range(1000)]
    peer.send(frame(texts[0]))
    ping = frame(b"", PING) if sent == "pong" else b""
    peer.send(b"".join(frame(text) + ping for text in texts[1:]))
    if sent == "ping":
        hands.monotonic += 8
    elif sent == "other tickers":
        feed.set_tickers(("MSFT",))
    (peer.reset if end == "reset" else peer.sock.close)()
    ended.set()
    notes.wait(lambda: len(notes.frames) == len(texts))
    assert notes.frames == texts
    notes.wait_for("retry")
    assert notes.count("disconnected") == (not is_first)
    assert notes.count("subscription") == 0


def test_a_gap_is_from_the_last_sign_of_life_to_the_new_subscription(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    start(DEFAULTS, clock=hands.clock())
    peer = listener.upgrade()
    peer.commands(2)
    notes.wait_for("connected")
    hands.wall += 10
    peer.send(frame(TRADE))
    notes.wait(lambda: notes.frames == [TRADE])
    hands.wall += 7
    notes.look_up()
    peer.sock.close()
    wait = notes.retried(1)
    hands.wall += 3
    hands.monotonic += wait
    listener.upgrade()
    notes.wait_for("connected", times=2)
    begin = 1_700_000_000
    assert notes.gaps == [
        GapMark(begin * NS_PER_SECOND, begin * NS_PER_SECOND, "connecting"),
        GapMark((begin + 20) * NS_PER_SECOND, (begin + 10) * NS_PER_SECOND, NO_CLOSE_FRAME),
    ]


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (1000, b"", "closed by the server (1000)"),
        (1001, b"going away", "closed by the server (1001 going away)"),
        (1008, f"token={KEY}".encode(), "closed by the server (1008 token=***)"),
    ],
)
def test_a_clean_close_is_not_the_end(
    start: Start, listener: Listener, notes: Notes, code: int, reason: bytes, told: str
) -> None:
    """FAULTS 9."""
    feed = start()
    peer = listener.upgrade()
    peer.commands(2)
    peer.send(frame(TRADE) + close(code, reason))
    assert peer.take() == (CLOSE, b"\x03\xe8")
    listener.upgrade().send(frame(b"more"))
    notes.wait(lambda: notes.frames == [TRADE, b"more"])
    assert notes.events[2:] == [
        ("disconnected", told),
        ("retry", told),
        ("gap", told),
        ("connected", *TICKERS),
    ]
    feed.raise_failure()


def test_invalid_data_ends_the_connection_after_the_messages_before_it(
    start: Start, listener: Listener, notes: Notes
) -> None:
    start()
    peer = listener.upgrade()
    peer.commands(2)
    peer.send(frame(TRADE) + frame(b"masked", masked=True))
    assert peer.ended()
    listener.upgrade()
    notes.wait_for("connected", times=2)
    assert notes.frames == [TRADE]
    assert notes.events[2] == (
        "disconnected",
        "connection lost: a masked frame from the server",
    )


def test_a_connection_that_ends_before_it_listened_is_not_reported_as_lost(
    start: Start, listener: Listener, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(self: object, text: str) -> None:
        raise WebSocketException("died")

    with monkeypatch.context() as patch:
        patch.setattr(BatchSocket, "send", send)
        start()
        listener.upgrade()
        notes.wait_for("retry", "connection lost: died")
    while notes.count("connected") == 0:
        listener.upgrade()
        notes.wait(lambda: notes.events[-1][0] in ("connected", "retry"))
        notes.look_up()
    assert notes.count("disconnected") == 0
    assert [gap.reason for gap in notes.gaps] == ["connection lost: died"]


def test_there_are_never_two_connections_at_once(
    start: Start, listener: Listener, notes: Notes
) -> None:
    start()
    old = listener.upgrade()
    for turn in range(6):
        if turn % 2:
            old.send(close(1001))
        else:
            old.send(frame(b"x", masked=True))
        new = listener.accept()
        assert old.ended()  # and did not wait for the new one, which has no answer yet
        assert not listener.dialled()
        new.upgrade()
        old = new
    notes.wait_for("connected", times=7)
    assert [thread.name for thread in threading.enumerate()].count("stocktrace-feed") == 1


def test_no_attempt_is_made_early_and_the_waits_follow_the_settings(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    """FAULTS 8: a server that closes every connection at once, as politely as can be."""
    start(changed(DEFAULTS, backoff_floor=0.5), clock=hands.clock())
    for number in range(1, 10):
        peer = listener.upgrade()
        peer.commands(2)
        peer.send(close(1000))
        wait = notes.retried(number)
        assert 0.5 <= wait <= max(0.5, min(60.0, 2 ** (number - 1)))
        hands.monotonic += wait - 0.01
        notes.look_up()
        assert not listener.dialled()
        hands.monotonic += 0.02
    listener.accept()
    assert len(set(notes.waits)) == 9


def test_three_short_connections_in_a_row_are_a_notice(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    """FINNHUB.md, #158."""
    start(DEFAULTS, clock=hands.clock())
    notice = (
        "notice",
        "3 connections in a row ended within 10 s: is this API key in use elsewhere?",
    )
    seen = []
    for number, lived in enumerate((1, 1, 10, 9, 1, 0, 1, 1, 10, 1, 1, 1), 1):
        peer = listener.upgrade()
        peer.commands(2)
        notes.look_up()
        hands.monotonic += lived
        peer.sock.close()
        hands.monotonic += notes.retried(number)
        seen.append(notes.count(*notice))
    assert seen == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]


def test_a_stable_connection_resets_the_backoff(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    start(changed(DEFAULTS, ping_interval=1e6), clock=hands.clock())
    for number, lived in enumerate((0, 59, 0, 0, 60), 1):
        peer = listener.upgrade()
        peer.commands(2)
        notes.look_up()
        hands.monotonic += lived
        peer.sock.close()
        hands.monotonic += notes.retried(number)
        assert 1.0 <= notes.waits[-1] <= 2 ** (number - 1)
    assert notes.waits[-1] == 1.0


# --- noticing that it is dead ----------------------------------------------------------------


def reasons(notes: Notes) -> list[object]:
    return [event[1] for event in notes.events if event[0] == "disconnected"]


def quiet(
    start: Start, listener: Listener, notes: Notes, hands: Hands, *, answers: bool = True
) -> Peer:
    """A connection that listens, on clocks moved by hand; the server says nothing more.

    ``answers=False``: the feed has learnt that this server answers no pings.
    """
    start(DEFAULTS, clock=hands.clock())
    peer = listener.upgrade()
    peer.commands(2)
    notes.wait_for("connected")
    notes.look_up()
    if not answers:
        hands.monotonic += 8
        assert peer.take() == (PING, b"")
        hands.monotonic += 1
        peer.send(frame(b'{"type":"ping"}'))
        notes.wait(lambda: len(notes.frames) == 1)
        hands.monotonic += 7
        notes.look_up()
    return peer


def given_up_in_half_a_second(notes: Notes, hands: Hands, reason: str) -> None:
    """Not now, but half a second later, the connection is lost for this reason."""
    notes.look_up()
    assert reasons(notes) == []
    hands.monotonic += 0.5
    notes.wait_for("disconnected")
    assert reasons(notes) == [reason]


@pytest.mark.parametrize("step_s", [0, 3600, -3600])
def test_a_half_open_connection_is_noticed_in_16_seconds_whatever_the_wall_clock_does(
    start: Start, listener: Listener, notes: Notes, hands: Hands, step_s: int
) -> None:
    """FAULTS 1, 5 and 20."""
    peer = quiet(start, listener, notes, hands)
    hands.monotonic += 7.5
    notes.look_up()
    hands.wall += step_s
    hands.monotonic += 0.5
    assert peer.take() == (PING, b"")
    notes.look_up()
    hands.monotonic += 7.5
    given_up_in_half_a_second(notes, hands, "ping unanswered for 8 s")
    assert peer.ended()


def test_half_a_frame_is_noticed_in_10_seconds(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    """FAULTS 2."""
    peer = quiet(start, listener, notes, hands)
    peer.send(frame(bytes(100))[:12])
    notes.look_up()
    hands.monotonic += 9.5
    given_up_in_half_a_second(notes, hands, "half a frame, then nothing for 10 s")


def test_a_frame_that_drips_is_noticed_in_a_minute(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    peer = quiet(start, listener, notes, hands, answers=False)
    for byte in frame(bytes(100))[:7]:
        peer.send(bytes([byte]))
        notes.look_up()
        hands.monotonic += 8.5
        notes.look_up()
    given_up_in_half_a_second(notes, hands, "a frame not complete after 60 s")


def test_a_frame_that_drips_without_a_pause_is_noticed_too(
    start: Start, listener: Listener, notes: Notes, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is never an idle moment in which to look at the clock."""
    reads = itertools.count()

    def drip(self: BatchSocket) -> SocketRead:
        self._size = 10
        hands.monotonic += 1.0
        next(reads)
        return SocketRead(size=1)

    monkeypatch.setattr(BatchSocket, "recv_batch", drip)
    start(DEFAULTS, clock=hands.clock())
    listener.upgrade()
    notes.wait_for("disconnected")
    assert reasons(notes) == ["a frame not complete after 60 s"]
    assert next(reads) == 61
    assert notes.ticks >= 61, "windows end and what is held is decoded meanwhile"


def test_a_server_that_is_silent_for_150_seconds_counts_as_lost(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    peer = quiet(start, listener, notes, hands, answers=False)
    peer.send(frame(b'{"type":"ping"}'))
    notes.wait(lambda: len(notes.frames) == 2)
    hands.monotonic += 149.5
    given_up_in_half_a_second(notes, hands, "no frame for 150 s")


def test_a_server_that_does_not_answer_pings_is_not_pinged_on_the_next_connection(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    peer = quiet(start, listener, notes, hands, answers=False)
    peer.sock.close()
    hands.monotonic += notes.retried(1)
    peer = listener.upgrade()
    assert peer.commands(2) == SUBSCRIBED
    notes.wait_for("connected", times=2)
    for _ in range(4):
        hands.monotonic += 30
        notes.look_up()
    peer.send(close(1000))
    assert peer.take() == (CLOSE, b"\x03\xe8")


def test_a_connection_with_pongs_only_stays_connected(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    """FAULTS 4 and 7: pongs and heartbeats, and no trade."""
    peer = quiet(start, listener, notes, hands)
    for turn in range(1, 61):
        hands.monotonic += 8
        assert peer.take() == (PING, b"")
        peer.send(frame(b"", PONG) + frame(b'{"type":"ping"}'))
        notes.wait(lambda turn=turn: len(notes.frames) == turn)  # type: ignore[misc]
    assert notes.events == [("gap", "connecting"), ("connected", *TICKERS)]


def test_a_server_that_stops_reading_counts_as_lost(
    start: Start, listener: Listener, notes: Notes
) -> None:
    """Half-open while the tickers are told: what is sent goes nowhere, and is not waited for."""
    many = [f"T{number}" * 20 for number in range(100_000)]
    start(changed(QUICK, handshake_timeout=0.2), tickers=many)
    listener.upgrade()
    notes.wait_for("retry")
    assert notes.events == [("retry", "connection lost: timed out")]


# --- ending ----------------------------------------------------------------------------------


def ended_in_time(feed: FeedClient) -> None:
    """Stop, with a deadline far shorter than what the feed waits for."""
    assert feed.stop(Deadline.after(PATIENCE / 2))
    assert feed.ended.is_set()
    feed.raise_failure()


def test_stopping_does_not_wait_for_a_handshake(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start()
    peer = listener.accept()
    peer.request()
    assert feed.state is FeedState.CONNECTING
    ended_in_time(feed)
    assert peer.ended()
    assert notes.events == [("gap", "connecting")]


def test_stopping_does_not_wait_for_a_mute_server(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start()
    peer = listener.upgrade()
    peer.send(frame(bytes(100))[:12])
    notes.wait_for("connected")
    ended_in_time(feed)
    assert peer.ended()
    assert notes.count("disconnected") == 0


def test_stopping_does_not_wait_for_the_next_attempt(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start(changed(QUICK, backoff_floor=3600.0))
    listener.accept().refuse(503)
    notes.wait_for("retry")
    ended_in_time(feed)
    assert notes.events == [
        ("retry", "HTTP 503 at the handshake"),
        ("gap", "HTTP 503 at the handshake"),
    ]
    assert not listener.dialled()


def test_stopping_does_not_wait_for_a_server_that_does_not_read(
    start: Start, listener: Listener, notes: Notes
) -> None:
    many = [f"T{number}" * 20 for number in range(100_000)]
    feed = start(tickers=many)
    listener.upgrade().commands(1)
    ended_in_time(feed)
    assert notes.count("disconnected") == 0


def test_ticks_come_while_it_waits_for_the_next_attempt(
    start: Start, listener: Listener, notes: Notes
) -> None:
    """Windows end without a connection, too."""
    start(changed(QUICK, backoff_floor=3600.0))
    listener.accept().refuse(503)
    notes.wait_for("retry")
    notes.look_up()


def test_stopping_twice_or_before_the_start_is_harmless(listener: Listener, notes: Notes) -> None:
    feed = FeedClient(changed(QUICK, url=listener.url), KEY, TICKERS, notes)
    assert feed.state is FeedState.IDLE
    assert feed.stop(Deadline.after(3600))
    feed.start()
    assert feed.ended.wait(PATIENCE)
    assert feed.stop(Deadline.after(3600))
    assert not listener.dialled()
    feed.raise_failure()


class Stuck(Notes):
    """A listener that does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.free = threading.Event(), threading.Event()

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> None:
        self.reached.set()
        assert self.free.wait(PATIENCE)


def test_a_feed_that_does_not_end_in_time_is_reported(
    start: Start, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck()
    feed = start(events=stuck)
    listener.upgrade().send(frame(TRADE))
    assert stuck.reached.wait(PATIENCE)
    assert not feed.stop(Deadline.after(0.05))
    assert caplog.messages == ["the feed's thread did not end (state: listening)"]
    stuck.free.set()
    assert feed.ended.wait(PATIENCE)
    # It was we who hung up: nothing was lost.
    assert stuck.count("disconnected") == 0


class Broken(Notes):
    """A listener that raises in one of its methods, or for one kind of mark."""

    def __init__(self, event: str, error: BaseException) -> None:
        super().__init__()

        def fail(*arguments: object) -> None:
            mark = arguments[0]
            if not isinstance(mark, Mark) or mark.name == event:
                raise error

        setattr(self, event if event.startswith("on_") else "on_mark", fail)


@pytest.mark.parametrize(
    "event", ["on_frames", "on_tick", "connected", "gap", "disconnected", "on_retry"]
)
@pytest.mark.parametrize("error", [ZeroDivisionError("it broke"), OSError("disk")])
def test_an_exception_of_the_listener_ends_the_feed_and_is_chained(
    start: Start, listener: Listener, event: str, error: Exception
) -> None:
    feed = start(events=Broken(event, error))
    peer = listener.upgrade()
    peer.send(frame(TRADE))
    if event in ("disconnected", "on_retry"):
        peer.commands(2)
        peer.send(close(1000))
    assert feed.ended.wait(PATIENCE)
    assert peer.ended()
    for _ in range(2):
        with pytest.raises(FeedStopped) as told:
            feed.raise_failure()
        assert told.value.__cause__ is error
        assert str(told.value) == f"The feed stopped: {type(error).__name__}: {error}"
    assert feed.state is FeedState.ENDED
    assert not listener.dialled()


def test_a_keyboard_interrupt_of_the_listener_ends_the_feed_too(
    start: Start, listener: Listener
) -> None:
    feed = start(events=Broken("on_frames", KeyboardInterrupt()))
    listener.upgrade().send(frame(TRADE))
    assert feed.ended.wait(PATIENCE)
    with pytest.raises(FeedStopped):
        feed.raise_failure()


# --- other tickers ---------------------------------------------------------------------------


def test_other_tickers_are_subscribed_on_a_live_connection_and_on_the_next(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start()
    peer = listener.upgrade()
    assert peer.commands(2) == SUBSCRIBED
    notes.wait_for("connected")
    feed.set_tickers(["BINANCE:BTCUSDT", "MSFT", "NVDA", "MSFT"])
    assert peer.commands(3) == [
        ("unsubscribe", "AAPL"),
        ("subscribe", "MSFT"),
        ("subscribe", "NVDA"),
    ]
    notes.wait_for("subscription", ["MSFT", "NVDA"], ["AAPL"])
    assert feed.tickers == ("BINANCE:BTCUSDT", "MSFT", "NVDA")
    peer.sock.close()
    peer = listener.upgrade()
    assert peer.commands(3) == [
        ("subscribe", "BINANCE:BTCUSDT"),
        ("subscribe", "MSFT"),
        ("subscribe", "NVDA"),
    ]
    notes.wait_for("connected", *feed.tickers)
    assert notes.count("subscription") == 1


def test_tickers_that_change_without_a_connection_are_subscribed_on_the_next(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start()
    peer = listener.accept()
    feed.set_tickers(["MSFT"])
    peer.upgrade()
    assert peer.commands(1) == [("subscribe", "MSFT")]
    notes.wait_for("connected", "MSFT")
    assert notes.count("subscription") == 0


def test_setting_the_same_tickers_again_sends_nothing(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start()
    peer = listener.upgrade()
    peer.commands(2)
    notes.wait_for("connected")
    feed.set_tickers(TICKERS)
    notes.look_up()
    feed.set_tickers([*TICKERS, "MSFT"])
    assert peer.commands(1) == [("subscribe", "MSFT")]
    notes.wait_for("subscription")
    assert notes.events[2:] == [("subscription", ["MSFT"], [])]


def test_all_tickers_may_be_removed_and_others_added(
    start: Start, listener: Listener, notes: Notes
) -> None:
    feed = start(tickers=["AAPL"])
    peer = listener.upgrade()
    peer.commands(1)
    notes.wait_for("connected")
    feed.set_tickers([])
    assert peer.commands(1) == [("unsubscribe", "AAPL")]
    notes.wait_for("subscription", [], ["AAPL"])
    feed.set_tickers(["MSFT"])
    assert peer.commands(1) == [("subscribe", "MSFT")]
    notes.wait_for("subscription", ["MSFT"], [])


@pytest.mark.parametrize("names_invalid_symbol", [True, False])
def test_a_ticker_that_the_server_refuses_is_reported(
    start: Start, notes: Notes, names_invalid_symbol: bool
) -> None:
    """FAULTS 38: the error may name no ticker; those that do not trade are asked for again."""
    settings = replace(
        SETTINGS,
        unknown_symbols=frozenset(["BAD"]),
        names_invalid_symbol=names_invalid_symbol,
    )
    with Simulator(ScriptedSource([(1, TRADE)]), settings) as exchange:
        feed = start(url=exchange.url, tickers=["BAD", "AAPL"])
        notes.wait_for("refused", "BAD")
        stopped(feed)
    assert {event[1] for event in notes.events if event[0] == "refused"} == {"BAD"}
    assert notes.count("error") == notes.count("refused") + (not names_invalid_symbol)


def test_an_error_is_reported_at_once_and_after_its_frames(
    start: Start, listener: Listener, notes: Notes
) -> None:
    start()
    peer = listener.upgrade()
    peer.commands(2)
    notes.wait_for("connected")
    errors = b'{"type":"error","msg":"Internal error"}', b'{"msg": "no", "type": "error"}'
    text = TRADE.replace(b"AAPL", b'"error"')
    peer.send(b"".join(map(frame, (TRADE, errors[0], text, errors[1]))))
    notes.wait_for("error", "no")
    assert notes.frames == [TRADE, errors[0], text, errors[1]]
    assert notes.events[2:] == [("error", "Internal error"), ("error", "no")]


def test_a_ticker_that_trades_during_the_search_for_a_refused_one_is_not_asked_for(
    start: Start, listener: Listener, notes: Notes, hands: Hands
) -> None:
    """FAULTS 38."""
    start(changed(QUICK, ping_interval=1e6), ["GOOD", "BAD"], hands.clock())
    peer = listener.upgrade()
    peer.commands(2)
    notes.wait_for("connected")
    error = frame(b'{"type":"error","msg":"Invalid symbol"}')
    peer.send(error)
    notes.wait_for("error")
    peer.send(frame(protocol.encode([Trade("GOOD", 1.5, 2, 3.0)])))
    notes.wait(lambda: len(notes.frames) == 2)
    hands.monotonic += ANSWER_TIMEOUT_S
    assert peer.commands(2) == [("unsubscribe", "BAD"), ("subscribe", "BAD")]
    peer.send(error)
    notes.wait_for("refused", "BAD", "Invalid symbol")


# --- against the simulated exchange ----------------------------------------------------------


def descriptors() -> set[str]:
    """The sockets that this process has open."""
    gc.collect()
    links = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.add(os.readlink(path))  # noqa: PTH115 - "socket:[1]" is no path
        except OSError:
            continue  # the descriptor of the listing itself
    return {link for link in links if link.startswith("socket:")}


def threads() -> Counter[str]:
    return Counter(thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("drops", sizes(20, 100))
def test_nothing_is_left_after_many_forced_drops(
    start: Start, notes: Notes, listener: Listener, drops: int
) -> None:
    """FAULTS 12."""
    sockets_before, threads_before = descriptors(), threads()
    with Simulator(ScriptedSource([]), SETTINGS, [Fault("drop", repeat=True)]) as exchange:
        feed = start(url=exchange.url)
        notes.wait_for("retry", times=drops)
        assert threads()["stocktrace-feed"] == 1
        exchange.clear_faults()
        exchange.wait_for(lambda exchange: exchange.subscriptions == TICKERS, PATIENCE)
        exchange.wait_for(lambda exchange: exchange.open_connections == 1, PATIENCE)
        notes.wait(lambda: notes.events[-1] == ("connected", *TICKERS))
        # Each loss was reported, and each gap closed.
        assert notes.count("gap") == notes.count("connected")
        assert notes.count("disconnected") == notes.count("connected") - 1
        stopped(feed)
    assert descriptors() <= sockets_before
    assert threads() <= threads_before


def test_a_stall_is_noticed_on_the_clock_of_this_machine(start: Start, notes: Notes) -> None:
    settings = changed(QUICK, ping_interval=0.1, pong_timeout=0.3)
    with Simulator(ScriptedSource([]), SETTINGS, [Fault("stall")]) as exchange:
        feed = start(settings, url=exchange.url)
        notes.wait_for("disconnected", "ping unanswered for 0.3 s")
        exchange.wait_for(lambda exchange: exchange.connections_made >= 2, PATIENCE)
        stopped(feed)


def test_trades_of_all_connections_arrive_in_their_order(start: Start, notes: Notes) -> None:
    frames = [protocol.encode([Trade("AAPL", float(n), n, 1.0)]) for n in range(1, 401)]
    script = ScriptedSource([(n, each) for n, each in enumerate(frames, 1)])
    faults = [
        Fault("drop", after_trades=100),
        Fault("close", after_trades=50, after_connections=1, code=1001),
        Fault("status", after_connections=3, status=503),
        Fault("drop", after_trades=10, after_connections=2),
    ]
    settings = replace(SETTINGS, settle=0.05)
    with Simulator(script, settings, faults) as exchange:
        feed = start(url=exchange.url)
        notes.wait(lambda: len(notes.frames) == 400)
        assert notes.frames == frames
        assert exchange.connections_made == 4
        assert notes.count("disconnected") == 3
        stopped(feed)


def test_the_wrong_key_ends_it(start: Start) -> None:
    with Simulator(ScriptedSource([]), replace(SETTINGS, key="another")) as exchange:
        feed = start(url=exchange.url)
        assert feed.ended.wait(PATIENCE)
        assert exchange.dials == 1
    with pytest.raises(KeyRefused):
        feed.raise_failure()
