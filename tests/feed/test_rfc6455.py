"""``BatchSocket`` by the cases of the Autobahn test suite, and beside websocket-client's own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import websocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websocket import (
    ABNF,
    WebSocketConnectionClosedException,
    WebSocketException,
    WebSocketProtocolException,
)

from stocktrace.feed.socket import BatchSocket, SocketRead
from stocktrace.store.quarantine import parse_quarantine
from tests.conftest import Scenario, Studio, published, sent, taped, trades
from tests.conftest import frame as trade_frame
from tests.feed.conftest import (
    BINARY,
    CLOSE,
    CONTINUED,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Listener,
    Peer,
    close,
    cut,
    frame,
    paired,
)
from tests.feed.rfc6455 import BEYOND, BULKS, CASES, KEPT, REFUSED, Case
from tests.tls import Authority

#: A read brings no more than this of a server that is not cut smaller.
READ = 1 << 15
GONE = "TCP ended"


def met(listener: Listener, ours: BatchSocket) -> Peer:
    """The server's end of ``ours``, after the handshake."""
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(listener.upgrade)
        ours.connect(listener.url, timeout=PATIENCE)
        return answered.result(PATIENCE)


def batches(ours: BatchSocket, peer: Peer, pieces: Iterable[bytes]) -> Iterator[SocketRead]:
    """What ``ours`` reads of each piece alone, and then until the server's end of TCP."""
    for piece in pieces:
        peer.send(piece)
        yield ours.recv_batch()
    peer.end()
    while True:
        yield ours.recv_batch()


def outcome(ours: BatchSocket, peer: Peer, pieces: Iterable[bytes]) -> tuple[list[bytes], str]:
    """The messages, and how it ended; nothing is read after a close, as the feed does it."""
    messages: list[bytes] = []
    try:
        for batch in batches(ours, peer, pieces):
            messages += batch.frames
            if batch.closed is not None:
                return messages, batch.closed
    except WebSocketProtocolException:
        return messages, REFUSED
    except WebSocketConnectionClosedException:
        pass
    return messages, GONE


def answered(case: Case) -> list[tuple[int, bytes]]:
    """What a client sends in a case: its pongs in order, and a close for a close."""
    closed = [] if case.end == REFUSED else [(CLOSE, b"\x03\xe8")]
    return [*((PONG, payload) for payload in case.pongs), *closed]


def hold(listener: Listener, case: Case, step: int) -> None:
    """The case comes out as it must, read ``step`` octets at a time."""
    ours = BatchSocket()
    peer = met(listener, ours)
    messages, end = outcome(ours, peer, cut(case.sent, step))
    ours.shutdown()
    assert ours.in_frame == (case.end == REFUSED)
    assert (end, [len(message) for message in messages]) == (
        case.end,
        [len(message) for message in case.messages],
    )
    assert tuple(messages) == case.messages
    assert peer.rest() == answered(case)


def in_steps(cases: dict[str, Case]) -> list[object]:
    """Each case whole and in the smallest pieces that are quick; in others with ``-m slow``."""
    found: list[object] = []
    for name, case in cases.items():
        steps = [step for step in (1, 7, 997) if step < len(case.sent)]
        quick = {READ, next((step for step in steps if len(case.sent) <= 2000 * step), READ)}
        for step in (READ, *steps):
            marks = [] if step in quick else [pytest.mark.slow]
            found.append(pytest.param(case, step, id=f"{name} by {step}", marks=marks))
    return found


@pytest.fixture(params=["ws", "wss"])
def either(request: pytest.FixtureRequest, sockets: ExitStack, trusted: Authority) -> Listener:
    """Over plain TCP, and over TLS, where each piece that is sent is a record of its own."""
    return Listener(sockets, trusted.server() if request.param == "wss" else None)


@pytest.mark.parametrize(("case", "step"), in_steps(CASES))
def test_each_case_of_autobahn_ends_as_its_suite_demands(
    either: Listener, case: Case, step: int
) -> None:
    hold(either, case, step)


@pytest.mark.parametrize("number", BULKS)
def test_each_case_of_autobahn_with_large_messages_or_many_ends_as_its_suite_demands(
    either: Listener, number: str
) -> None:
    bulk = BULKS[number]
    hold(either, bulk.case(), bulk.chop or READ)


@pytest.mark.parametrize(("case", "step"), in_steps(BEYOND))
def test_each_case_that_autobahn_does_not_send_ends_as_the_rfc_demands(
    either: Listener, case: Case, step: int
) -> None:
    hold(either, case, step)


# --- broken UTF-8, all the way ---------------------------------------------------------------


def test_invalid_utf8_is_quarantined_byte_for_byte_and_nothing_else_is_lost(
    studio: Studio, listener: Listener
) -> None:
    """The connection is kept; each broken message costs itself alone, also one with a trade."""
    cases = [case for case in CASES.values() if case.verdict == KEPT and case.messages]
    with_a_trade = trade_frame(("AAPL", 1.0), c=["1"])
    stream, frames, broken = b"", [], []
    for at, case in enumerate(cases):
        (message,) = case.messages
        trade = trade_frame(("AAPL", at + 1.0))
        torn = with_a_trade.replace(b'"1"', b'"%s"' % message.replace(b'"', b""))
        stream += frame(trade) + case.sent.removesuffix(close(1000)) + frame(torn)
        frames += [trade, message, torn]
        broken += [message, torn]
    last = trade_frame(("AAPL", 1000.0))

    def serve() -> None:
        peer = listener.upgrade()
        peer.commands(1)
        for piece in cut(stream + frame(last), 997):
            peer.send(piece)

    def scenario() -> Scenario:
        yield trades(len(cases) + 1)

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        report = studio.record(listener.url, scenario=scenario())
        served.result(PATIENCE)
    refused = [
        each
        for path in sorted(studio.data_dir.glob("quarantine/*.jsonl"))
        for each in parse_quarantine(path.read_text("utf-8").splitlines())
    ]
    assert [(each.frame, each.row) for each in refused] == [(each, None) for each in broken]
    assert taped(studio.data_dir) == [*frames, last]
    assert published(studio.data_dir) == sent([*frames[::3], last])
    assert (report.books.frames, report.books.undecodable) == (len(frames) + 1, len(broken))
    assert (report.reconnects, report.balanced) == (0, True)
    assert len(cases) == 75


# --- beside the library ----------------------------------------------------------------------

TEXTS = st.text(max_size=200).map(str.encode)
SIZED = st.sampled_from([0, 125, 126, 127, 300, 70_000])
CONTROL = st.builds(frame, st.binary(max_size=125), st.sampled_from([PING, PONG]))


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A message, and the frames it comes in, with pings and pongs before and between them."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(
        st.one_of(TEXTS if opcode == TEXT else st.binary(max_size=200), SIZED.map(bytes))
    )
    ends = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = [payload[a:b] for a, b in zip([0, *ends], [*ends, len(payload)], strict=True)]
    data = b""
    for at, part in enumerate(parts):
        data += b"".join(draw(st.lists(CONTROL, max_size=1)))
        data += frame(part, CONTINUED if at else opcode, fin=at == len(ends))
    return payload, data


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` as it may be read: some thousand pieces at most."""
    sizes = draw(
        st.lists(st.one_of(st.integers(1, 10), st.integers(1, READ)), min_size=1, max_size=30)
    )
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = max(sizes[len(found) % len(sizes)], len(data) // 2000)
        found.append(data[at : at + size])
        at += size
    return found


def by_us(data: list[bytes]) -> tuple[list[bytes], str, list[tuple[int, bytes]]]:
    """The messages, how it ended, and what was sent."""
    with ExitStack() as sockets:
        ours = BatchSocket()
        peer = paired(sockets, ours)
        ours.set_mask_key(bytes)  # zeros: what two of them send can be compared
        messages, end = outcome(ours, peer, data)
        ours.shutdown()
        return messages, end, peer.rest()


def by_the_library(data: list[bytes]) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """The messages that ``recv`` gives, as bytes, and what was sent."""
    with ExitStack() as sockets:
        plain = websocket.WebSocket(skip_utf8_validation=True)
        peer = paired(sockets, plain)
        plain.set_mask_key(bytes)

        def serve() -> None:
            for piece in data:
                peer.send(piece)
            peer.sock.shutdown(socket.SHUT_WR)

        found: list[bytes] = []
        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            # What recv() does, but for decoding texts, which would end at the first broken one.
            with contextlib.suppress(WebSocketException, OSError):
                while True:
                    opcode, message = plain.recv_data()
                    if opcode == ABNF.OPCODE_CLOSE:
                        break
                    found.append(message)
            plain.shutdown()
            with contextlib.suppress(OSError):  # it need not take what comes after a close
                served.result(PATIENCE)
        return found, peer.rest()


SLOW_TO_MAKE = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SLOW_TO_MAKE
@given(
    st.data(), st.lists(messages(), max_size=8), st.sampled_from([b"", close(1000), close(3000)])
)
def test_any_messages_cut_anywhere_arrive_as_sent_and_as_the_library_reads_them(
    data: st.DataObject, conversation: list[tuple[bytes, bytes]], ending: bytes
) -> None:
    stream = data.draw(pieces(b"".join(part for _, part in conversation) + ending))
    ours, end, our_answers = by_us(stream)
    theirs, their_answers = by_the_library(stream)
    assert ours == theirs == [payload for payload, _ in conversation]
    assert our_answers == their_answers
    assert (end == GONE) == (ending == b"")


@st.composite
def harmed(draw: st.DrawFn) -> bytes:
    """Frames after some harm: octets changed, left out or put in."""
    data = bytearray(
        b"".join(part for _, part in draw(st.lists(messages(), min_size=1, max_size=4)))
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(data), 300)))
        replaced = draw(st.integers(0, 2))
        data[at : at + replaced] = draw(st.binary(max_size=2))
    return bytes(data)


@SLOW_TO_MAKE
@given(st.data(), harmed())
def test_damaged_frames_are_read_as_the_library_reads_them_or_end_the_connection_sooner(
    data: st.DataObject, stream: bytes
) -> None:
    chopped = data.draw(pieces(stream))
    ours, end, our_answers = by_us(chopped)
    theirs, their_answers = by_the_library(chopped)
    if end == REFUSED:
        assert ours == theirs[: len(ours)]
        assert our_answers == their_answers[: len(our_answers)]
    else:
        assert (ours, our_answers) == (theirs, their_answers)
