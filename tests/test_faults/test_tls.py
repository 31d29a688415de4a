"""Stories 46, 48 and 49: connections over TLS."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from stocktrace.errors import BadCertificate, WrongScheme
from stocktrace.feed.socket import GATHER_INTERVAL_S, BatchSocket, ReadPacer
from tests.conftest import Scenario, Studio, connected, published, sent, taped, trades
from tests.conftest import frame as trade_frame
from tests.feed.conftest import PATIENCE, Listener, Peer, frame, paired
from tests.test_faults.conftest import Launch, events, findings, record, report_of
from tests.tls import Authority

MESSAGE = trade_frame(("AAPL", 1.0))


def of_size(size: int) -> bytes:
    """A frame of so many bytes, header and all."""
    header = 2 if size < 128 else 4
    return frame(b"x" * (size - header))


@pytest.mark.parametrize("size", [len(frame(MESSAGE)), 1434, 4096, 16384])
def test_46_a_read_takes_all_records_that_have_arrived_up_to_its_bound(
    authority: Authority, sockets: ExitStack, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("stocktrace.feed.socket.READ_BYTES", 2 * size)
    ours, one = BatchSocket(), of_size(size)
    theirs = paired(sockets, ours, authority)
    for _ in range(3):
        theirs.send(one)  # a record each
    full, rest = ours.recv_batch(), ours.recv_batch()
    assert [(len(batch.frames), batch.size) for batch in (full, rest)] == [
        (2, 2 * size),
        (1, size),
    ]
    pace = busy()
    assert [pace.delay_after(batch.size, 1.0, drained=batch.drained) for batch in (full, rest)] == [
        0.0,
        GATHER_INTERVAL_S,
    ]


def busy() -> ReadPacer:
    """One that has seen a busy connection until just now."""
    pace = ReadPacer(0.0)
    for at in range(1000):
        pace.delay_after(7_000, at / 1000)
    return pace


def test_46_a_capture_over_tls_takes_tls_records_of_any_size(
    studio: Studio, sockets: ExitStack, trusted: Authority
) -> None:
    listener = Listener(sockets, trusted.server())
    frames = [trade_frame(("AAPL", n + 1.0)) for n in range(4000)]
    stream = b"".join(map(frame, frames))
    assert len(stream) > 16384 * 5

    def serve() -> Peer:
        peer = listener.upgrade()
        peer.commands(1)
        at = 0
        for size in (1, 100, 1434, 4096, 16384, len(stream)):
            peer.send(stream[at : at + size])
            at += size
        return peer

    def scenario() -> Scenario:
        yield trades(len(frames))

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        report = record(studio, listener.url, scenario())
        served.result(PATIENCE)
    assert (report.books.frames, report.reconnects) == (len(frames), 0)
    assert taped(studio.data_dir) == frames
    assert published(studio.data_dir) == sent(frames)
    assert findings(studio.data_dir) == []


@pytest.mark.parametrize(
    ("trust", "name", "days"),
    [(False, "127.0.0.1", 1), (True, "127.0.0.2", 1), (True, "127.0.0.1", -1)],
    ids=["unknown authority", "other host", "expired"],
)
def test_48_a_certificate_that_cannot_be_verified_ends_it_at_once(
    studio: Studio,
    sockets: ExitStack,
    trusted: Authority,
    monkeypatch: pytest.MonkeyPatch,
    trust: bool,
    name: str,
    days: int,
) -> None:
    if not trust:
        monkeypatch.delenv("SSL_CERT_FILE")
    until = datetime.now(UTC) + timedelta(days=days)
    listener = Listener(sockets, trusted.server(name, not_after=until))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(listener.accept)
        with pytest.raises(BadCertificate) as refused:
            record(studio, listener.url)
    report = report_of(studio.data_dir)
    assert (report.state, report.reason) == ("failed", str(refused.value))
    assert events(studio.data_dir, "retry") == []
    assert not listener.dialled()


def test_48_it_is_one_sentence_with_the_remedy_and_status_1(
    studio: Studio, sockets: ExitStack, authority: Authority, launch: Launch
) -> None:
    listener = Listener(sockets, authority.server())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(listener.accept)
        status, said = launch(listener.url).end()
    server = listener.url.removeprefix("wss://")
    assert status == 1
    last = said.splitlines()[-1]
    assert last.startswith(f"stocktrace: The certificate of {server} cannot be verified (")
    assert "set SSL_CERT_FILE" in last
    assert "Traceback" not in said
    assert "next try" not in said


def test_48_the_remedy_helps(studio: Studio, sockets: ExitStack, trusted: Authority) -> None:
    """With ``SSL_CERT_FILE`` set to the authority, the same certificate will do."""
    listener = Listener(sockets, trusted.server())

    def scenario() -> Scenario:
        yield connected

    with ThreadPoolExecutor(1) as pool:
        pool.submit(listener.upgrade)
        report = record(studio, listener.url, scenario())
    assert (report.state, report.outages) == ("interrupted", [])


def test_49_a_server_that_answers_tls_in_plain_ends_it_at_once(
    studio: Studio, sockets: ExitStack
) -> None:
    listener = Listener(sockets)

    def serve() -> None:
        peer = listener.accept()
        assert peer.sock.recv(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    ends(studio, listener, serve, listener.url.replace("ws:", "wss:"), "ws")


def test_49_a_server_that_wants_tls_ends_it_at_once(studio: Studio, sockets: ExitStack) -> None:
    listener = Listener(sockets)

    def serve() -> None:
        body = b"Client sent an HTTP request to an HTTPS server.\n"
        listener.accept().refuse(400, body)

    ends(studio, listener, serve, listener.url, "wss")


def ends(
    studio: Studio, listener: Listener, serve: Callable[[], None], url: str, scheme: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        with pytest.raises(WrongScheme) as told:
            record(studio, url)
        served.result(PATIENCE)
    assert str(told.value).endswith(f"an address that starts with {scheme}://.")
    assert not listener.dialled()


@pytest.mark.parametrize("given", ["ws", "wss"])
def test_49_a_server_that_just_hangs_up_is_reported_with_a_likely_cause(
    studio: Studio, sockets: ExitStack, authority: Authority, given: str
) -> None:
    """OpenSSL does so with a request that is not TLS; other servers do so for other reasons."""
    listener = Listener(sockets)
    other = {"ws": "wss", "wss": "ws"}[given]

    def serve() -> None:
        peer = listener.accept()
        peer.sock.recv(1)
        peer.sock.close()

    def scenario() -> Scenario:
        yield lambda _: bool(events(studio.data_dir, "retry"))

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        record(studio, listener.url.replace("ws:", f"{given}:"), scenario(), backoff_base="60s",
               backoff_cap="60s", backoff_floor="60s")  # fmt: skip
        served.result(PATIENCE)
    (retry,) = events(studio.data_dir, "retry")
    assert retry["reason"].endswith(f"its address begins with {other}://")
