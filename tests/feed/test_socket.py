"""``BatchSocket`` over a pair of sockets; the protocol case by case is in ``test_rfc6455``."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import ssl
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import websocket
from websocket import (
    WebSocketBadStatusException,
    WebSocketConnectionClosedException,
    WebSocketProtocolException,
)

from stocktrace.errors import WrongScheme
from stocktrace.feed.socket import FRAME_BYTES, BatchSocket, SocketRead
from tests.feed.conftest import (
    BINARY,
    CLOSE,
    CONTINUED,
    PATIENCE,
    PING,
    PONG,
    Listener,
    Peer,
    close,
    cut,
    frame,
    paired,
)
from tests.tls import Authority

KEY = "s3cret-key"


@pytest.fixture(params=["tcp", "tls"])
def pair(
    request: pytest.FixtureRequest, sockets: ExitStack, authority: Authority
) -> tuple[BatchSocket, Peer]:
    ours = BatchSocket()
    return ours, paired(sockets, ours, authority if request.param == "tls" else None)


def fed(pair: tuple[BatchSocket, Peer], *pieces: bytes) -> list[bytes]:
    """The messages of ``pieces``, each sent and read alone."""
    ours, theirs = pair
    found: list[bytes] = []
    for piece in pieces:
        theirs.send(piece)
        found += ours.recv_batch().frames
    return found


# --- messages --------------------------------------------------------------------------------


def test_many_messages_of_one_read_come_in_one_batch(pair: tuple[BatchSocket, Peer]) -> None:
    messages = [b"%d" % n * (n % 40) for n in range(2000)]
    ours, theirs = pair
    theirs.send(b"".join(map(frame, messages)))
    assert ours.recv_batch() == SocketRead(messages, frame_completed=True)


def test_a_binary_message_is_kept_in_its_place(pair: tuple[BatchSocket, Peer]) -> None:
    raw = bytes(range(256))
    assert fed(pair, frame(b"a") + frame(raw, BINARY) + frame(b"b")) == [b"a", raw, b"b"]


def test_invalid_utf8_is_a_message_and_the_connection_stays(
    pair: tuple[BatchSocket, Peer],
) -> None:
    parts = frame(b"\xc3", fin=False) + frame(b"\x28", CONTINUED)
    assert fed(pair, frame(b"\xff") + parts + frame(b"next")) == [b"\xff", b"\xc3\x28", b"next"]


def test_a_frame_of_10_mb_is_put_together_once(
    pair: tuple[BatchSocket, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What costs is joining what came; it is not done again for each of 160 pieces."""
    joined: list[int] = []
    take = BatchSocket._split_frames

    def counting(self: BatchSocket, batch: SocketRead) -> None:
        joined.append(self._size)
        take(self, batch)

    monkeypatch.setattr(BatchSocket, "_split_frames", counting)
    payload = bytes(10_000_000)
    assert fed(pair, *cut(frame(payload), 1 << 16)) == [payload]
    assert len(joined) == 2
    assert sum(joined) < len(payload) + (1 << 17)


def test_a_socket_knows_whether_it_is_in_a_frame(pair: tuple[BatchSocket, Peer]) -> None:
    ours, theirs = pair
    seen = []
    for piece in (frame(b"abc")[:1], frame(b"abc")[1:], frame(b"") + b"\x81", b"\x01x"):
        theirs.send(piece)
        batch = ours.recv_batch()
        seen.append((batch.frames, batch.frame_completed, ours.in_frame))
    assert seen == [
        ([], False, True),
        ([b"abc"], True, False),
        ([b""], True, True),
        ([b"x"], True, False),
    ]


def test_a_fragment_or_a_ping_that_came_whole_completes_a_frame(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, theirs = pair
    for piece in (frame(b"a", fin=False), frame(b"", PING), frame(b"", PONG)):
        theirs.send(piece + b"\x80")
        assert ours.recv_batch().frame_completed
        assert ours.in_frame
        ours._chunks, ours._size = [], 0


def test_a_read_without_data_raises_a_timeout(pair: tuple[BatchSocket, Peer]) -> None:
    ours, theirs = pair
    ours.settimeout(0.01)
    theirs.send(frame(b"abc")[:2])
    assert ours.recv_batch() == SocketRead()
    with pytest.raises(TimeoutError):
        ours.recv_batch()
    theirs.send(frame(b"abc")[2:])
    ours.settimeout(PATIENCE)
    assert ours.recv_batch().frames == [b"abc"]


# --- TLS: what arrived in several records ----------------------------------------------------


class Sealed:
    """A server whose TLS records the test sends in pieces, or spoilt."""

    def __init__(self, sockets: ExitStack, ours: BatchSocket, authority: Authority) -> None:
        near, far = socket.socketpair()
        self.sock = sockets.enter_context(far)
        self._read, self._written = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = authority.server().wrap_bio(self._read, self._written, server_side=True)
        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(self._accept)
            ours.sock = authority.client().wrap_socket(near, server_hostname="127.0.0.1")
            accepted.result(PATIENCE)
        sockets.enter_context(ours.sock)
        ours.connected = True
        ours.settimeout(PATIENCE)

    def _accept(self) -> None:
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            self.sock.sendall(self._written.read())
            if not done:
                self._read.write(self.sock.recv(1 << 16))

    def record(self, data: bytes) -> bytes:
        """The bytes of a record."""
        self._tls.write(data)
        return self._written.read()


@pytest.fixture
def sealed(sockets: ExitStack, authority: Authority) -> tuple[BatchSocket, Sealed]:
    ours = BatchSocket()
    return ours, Sealed(sockets, ours, authority)


def test_a_record_that_has_come_in_part_is_not_waited_for(
    sealed: tuple[BatchSocket, Sealed],
) -> None:
    ours, theirs = sealed
    first, second = theirs.record(frame(b"first")), theirs.record(frame(b"second"))
    for cut_at in (1, 5, 6, len(second) - 1):
        theirs.sock.sendall(first + second[:cut_at])
        batch = ours.recv_batch()
        assert (batch.frames, batch.drained) == ([b"first"], True)
        assert ours.gettimeout() == PATIENCE
        theirs.sock.sendall(second[cut_at:])
        assert ours.recv_batch().frames == [b"second"]
        first, second = theirs.record(frame(b"first")), theirs.record(frame(b"second"))


def test_records_before_an_invalid_one_are_returned_first(
    sealed: tuple[BatchSocket, Sealed],
) -> None:
    ours, theirs = sealed
    good, bad = theirs.record(frame(b"good")), bytearray(theirs.record(frame(b"bad")))
    bad[-1] ^= 1
    theirs.sock.sendall(good + bad)
    batch = ours.recv_batch()
    assert (batch.frames, batch.drained) == ([b"good"], False)
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            ours.recv_batch()


def test_records_before_a_reset_are_returned_first(sockets: ExitStack, trusted: Authority) -> None:
    listener, ours = Listener(sockets, trusted.server()), BatchSocket()
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(listener.upgrade)
        ours.connect(listener.url, timeout=PATIENCE)
        peer = answered.result(PATIENCE)
    peer.send(frame(b"one"))
    peer.send(frame(b"two"))
    peer.reset()
    found: list[bytes] = []
    # How it ended depends on Python: a reset, or an end of TCP.
    with contextlib.suppress(OSError, WebSocketConnectionClosedException):
        while True:
            found += ours.recv_batch().frames
    ours.shutdown()
    assert found == [b"one", b"two"]


def test_an_empty_record_does_not_end_the_connection(sealed: tuple[BatchSocket, Sealed]) -> None:
    """The tickets of TLS 1.3 come after the handshake, and hold nothing for us."""
    ours, theirs = sealed
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv_batch()
    theirs.sock.sendall(theirs.record(frame(b"text")))
    assert ours.recv_batch().frames == [b"text"]


# --- fragments, pings, pongs -----------------------------------------------------------------


def test_a_message_grows_in_place_however_many_its_fragments(
    pair: tuple[BatchSocket, Peer],
) -> None:
    """Copied for each of 65,536 fragments, 4 MiB took 3.6 s instead of 0.3."""
    fed(pair, frame(b"a", fin=False))
    grown = pair[0].cont_frame.cont_data
    assert grown is not None
    begun = grown[1]
    fed(pair, frame(b"b", CONTINUED, fin=False))
    assert grown[1] is begun
    assert fed(pair, frame(b"c", CONTINUED)) == [b"abc"]


def test_a_ping_is_answered_by_a_masked_pong_with_its_payload(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, theirs = pair
    ours.set_mask_key(lambda _: b"\x01\x02\x03\x04")
    theirs.send(frame(b"abcde", PING))
    assert ours.recv_batch() == SocketRead(frame_completed=True)
    assert theirs.sock.recv(100) == b"\x8a\x85\x01\x02\x03\x04" + b"````d"


def test_pongs_are_counted(pair: tuple[BatchSocket, Peer]) -> None:
    ours, theirs = pair
    theirs.send(frame(b"", PONG) + frame(b"text") + frame(b"unasked", PONG))
    assert ours.recv_batch() == SocketRead([b"text"], frame_completed=True, pongs=2)


def test_our_ping_is_masked_and_empty(pair: tuple[BatchSocket, Peer]) -> None:
    ours, theirs = pair
    ours.ping()
    assert theirs.take() == (PING, b"")


# --- what is not RFC 6455 --------------------------------------------------------------------

NOT_RFC_6455 = {
    "masked": frame(b"abc", masked=True),
    "masked and empty": frame(b"", masked=True),
    "masked ping": frame(b"", PING, masked=True),
    "reserved bit 1": frame(b"abc", reserved=4),
    "reserved bit 2": frame(b"abc", reserved=2),
    "reserved bit 3": frame(b"abc", reserved=1),
    "reserved bit in a ping": frame(b"", PING, reserved=4),
    **{f"opcode {opcode}": frame(b"abc", opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "ping in fragments": frame(b"", PING, fin=False),
    "pong in fragments": frame(b"", PONG, fin=False),
    "close in fragments": frame(b"", CLOSE, fin=False),
    "ping too long": frame(b"x" * 126, PING),
    "pong too long": frame(b"x" * 126, PONG),
    "close too long": close(1000, b"x" * 124),
    "close of one byte": frame(b"\x03", CLOSE),
    **{f"close {code}": close(code) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)},
    "continued, but nothing had begun": frame(b"abc", CONTINUED),
    "begun anew in the middle": frame(b"a", fin=False) + frame(b"b"),
    "begun anew in the middle, binary": frame(b"a", fin=False) + frame(b"b", BINARY),
    "too long for us": struct.pack("!BBQ", 0x81, 127, FRAME_BYTES + 1),
    "a length of 2^63": struct.pack("!BBQ", 0x81, 127, 1 << 63),
    "a length of 2^64-1": struct.pack("!BBQ", 0x82, 127, (1 << 64) - 1),
}


@pytest.mark.parametrize("data", NOT_RFC_6455.values(), ids=NOT_RFC_6455)
def test_data_that_does_not_follow_rfc_6455_is_refused(
    pair: tuple[BatchSocket, Peer], data: bytes
) -> None:
    with pytest.raises(WebSocketProtocolException):
        fed(pair, data)


@pytest.mark.parametrize("data", NOT_RFC_6455.values(), ids=NOT_RFC_6455)
def test_messages_before_invalid_data_are_returned_first(
    pair: tuple[BatchSocket, Peer], data: bytes
) -> None:
    ours, theirs = pair
    theirs.send(frame(b"good") + frame(b"better") + data)
    assert ours.recv_batch().frames == [b"good", b"better"]
    for _ in range(2):
        with pytest.raises(WebSocketProtocolException):
            ours.recv_batch()


def test_a_frame_of_the_largest_length_is_waited_for(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, theirs = pair
    theirs.send(struct.pack("!BBQ", 0x81, 127, FRAME_BYTES))
    assert ours.recv_batch() == SocketRead()
    assert ours.in_frame


def test_fragments_without_end_are_refused(
    pair: tuple[BatchSocket, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stocktrace.feed.socket.FRAME_BYTES", 1000)
    first, more = frame(bytes(600), fin=False), frame(bytes(401), CONTINUED, fin=False)
    with pytest.raises(WebSocketProtocolException, match="too many fragments"):
        fed(pair, first, more)


# --- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (close(1000), "closed by the server (1000)"),
        (close(1001, b"going away"), "closed by the server (1001 going away)"),
        (close(1008, b"policy"), "closed by the server (1008 policy)"),
        (close(1012), "closed by the server (1012)"),
        (close(3000), "closed by the server (3000)"),
        (close(4999, "schön".encode()), "closed by the server (4999 schön)"),
        (close(1000, b"\xff"), "closed by the server (1000 \ufffd)"),
        (close(1000, b"x" * 123), f"closed by the server (1000 {'x' * 123})"),
        (frame(b"", CLOSE), "closed by the server (1005)"),
    ],
)
def test_a_close_is_reported_and_answered(
    pair: tuple[BatchSocket, Peer], data: bytes, told: str
) -> None:
    ours, theirs = pair
    theirs.send(frame(b"last") + data + frame(b"after it, nothing counts"))
    assert ours.recv_batch() == SocketRead([b"last"], frame_completed=True, closed=told)
    assert theirs.take() == (CLOSE, b"\x03\xe8")


def test_a_close_of_a_server_that_left_is_reported(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, theirs = pair
    theirs.send(frame(b"last") + close(1001))
    theirs.sock.close()
    batch = ours.recv_batch()
    assert (batch.frames, batch.closed) == ([b"last"], "closed by the server (1001)")


def test_103_messages_around_pings_that_cannot_be_answered_are_read(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, theirs = pair
    theirs.send(frame(b"one") + frame(b"", PING) + frame(b"two") + frame(b"", PING) + frame(b"3"))
    theirs.sock.close()
    assert ours.recv_batch().frames == [b"one", b"two", b"3"]
    assert ours.write_error is not None
    with pytest.raises(WebSocketConnectionClosedException, match="without a close frame"):
        ours.recv_batch()


def test_103_a_ping_of_a_server_that_does_not_read_does_not_end_reading(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, theirs = pair
    assert ours.sock is not None
    ours.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
        while True:
            ours.sock.send(bytes(1 << 16))
    ours.settimeout(0.01)
    theirs.send(frame(b"", PING) + frame(b"one"))
    assert ours.recv_batch().frames == [b"one"]
    assert str(ours.write_error) == "a ping could not be answered"
    theirs.send(frame(b"", PING) + frame(b"two"))
    assert ours.recv_batch().frames == [b"two"]


@pytest.mark.parametrize("before", [b"", frame(b"abc")[:4]])
def test_an_end_of_tcp_without_a_close_frame_is_reported(
    pair: tuple[BatchSocket, Peer], before: bytes
) -> None:
    ours, theirs = pair
    theirs.send(frame(b"last") + before)
    theirs.sock.close()
    assert ours.recv_batch().frames == [b"last"]
    with pytest.raises(WebSocketConnectionClosedException, match="without a close frame"):
        ours.recv_batch()


def test_a_closed_socket_cannot_be_read(pair: tuple[BatchSocket, Peer]) -> None:
    ours, _ = pair
    ours.shutdown()
    with pytest.raises(WebSocketConnectionClosedException, match="the socket is closed"):
        ours.recv_batch()


@pytest.mark.parametrize("before", [b"", frame(b"", PING)])
def test_the_librarys_own_reading_and_closing_end_at_once(
    pair: tuple[BatchSocket, Peer], before: bytes
) -> None:
    """They asked an empty buffer for more, for ever."""
    ours, theirs = pair
    if before:
        assert fed(pair, before) == []
        assert theirs.take() == (PONG, b"")
    with pytest.raises(WebSocketConnectionClosedException, match="only recv_batch"):
        ours.recv()
    ours.close()
    assert theirs.rest() == [(CLOSE, b"\x03\xe8")]


def test_aborting_from_another_thread_wakes_the_reader(pair: tuple[BatchSocket, Peer]) -> None:
    ours, _ = pair
    reading = threading.Event()

    def read() -> None:
        reading.set()
        ours.recv_batch()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        assert reading.wait(PATIENCE)
        ours.abort()
        assert isinstance(reader.exception(PATIENCE / 2), WebSocketConnectionClosedException)


def test_aborting_is_harmless_before_after_and_twice(pair: tuple[BatchSocket, Peer]) -> None:
    BatchSocket().abort()
    ours, _ = pair
    ours.abort()
    ours.abort()
    ours.shutdown()
    ours.abort()


def test_aborting_a_socket_that_is_closed_already_is_harmless(
    pair: tuple[BatchSocket, Peer],
) -> None:
    ours, _ = pair
    assert ours.sock is not None
    ours.sock.close()
    ours.abort()


# --- the handshake, which is the library's ---------------------------------------------------


@pytest.fixture
def dial(listener: Listener) -> Iterator[Callable[[Callable[[Peer], object]], BatchSocket]]:
    """Connects while the test answers."""
    with ThreadPoolExecutor(1) as pool:
        ours = BatchSocket()

        def dial(answer: Callable[[Peer], object]) -> BatchSocket:
            url = f"{listener.url}/?token={KEY}"
            dialling = pool.submit(ours.connect, url, timeout=PATIENCE)
            answer(listener.accept())
            dialling.result(PATIENCE)
            return ours

        yield dial
        ours.shutdown()


Dial = Callable[[Callable[[Peer], object]], BatchSocket]


def test_data_in_the_segment_of_the_101_is_not_lost(dial: Dial) -> None:
    ours = dial(lambda peer: peer.upgrade(more=frame(b"first") + frame(b"second")[:3]))
    assert ours.recv_batch() == SocketRead([b"first"], frame_completed=True)
    assert ours.in_frame


def test_a_server_that_wants_tls_is_reported(dial: Dial, listener: Listener) -> None:
    body = b"<center>The plain HTTP request was sent to HTTPS port</center>"
    with pytest.raises(WrongScheme) as told:
        dial(lambda peer: peer.refuse(400, body))
    server = listener.url.removeprefix("ws://")
    assert (told.value.server, told.value.scheme) == (server, "wss")
    assert KEY not in "".join(traceback.format_exception(told.value))


@pytest.fixture
def trace() -> Iterator[io.StringIO]:
    """What websocket-client prints of itself, all of it."""
    text = io.StringIO()
    websocket.enableTrace(True, logging.StreamHandler(text))
    yield text
    websocket.enableTrace(False)


def test_the_key_is_not_in_the_trace(dial: Dial, trace: io.StringIO) -> None:
    ours = dial(Peer.upgrade)
    ours.send("hello")
    printed = trace.getvalue()
    assert "GET /?token=*** HTTP/1.1" in printed
    assert "101 Switching Protocols" in printed
    assert KEY not in printed


def test_the_key_is_not_in_the_trace_of_a_refusal_that_quotes_it(
    dial: Dial, trace: io.StringIO
) -> None:
    location = f"Location: wss://elsewhere/?a=1&token={KEY}&b='token={KEY}'\r\n"
    with pytest.raises(WebSocketBadStatusException):
        dial(lambda peer: peer.refuse(403, headers=location))
    assert "location" in trace.getvalue().lower()
    assert KEY not in trace.getvalue()


def test_log_lines_with_arguments_are_unchanged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "websocket"):
        logging.getLogger("websocket").debug("%d%% of token=%s&x", 50, KEY)
    assert caplog.messages == ["50% of token=***&x"]
