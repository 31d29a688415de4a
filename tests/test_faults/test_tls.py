"""Stories 46, 48, 49, 121 and 122: connections over TLS."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import ssl
import subprocess
import termios
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from stocktrace.errors import BadCertificate, WrongScheme
from stocktrace.feed.socket import GATHER_INTERVAL_S, BatchSocket, ReadPacer
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SyntheticMarket
from tests.conftest import Scenario, Studio, connected, played, published, sent, taped, trades
from tests.conftest import frame as trade_frame
from tests.feed.conftest import PATIENCE, Listener, Peer, frame, paired
from tests.test_faults.conftest import (
    QUICK_BOUND,
    SLACK,
    Launch,
    all_sent,
    events,
    findings,
    numbered,
    record,
    recorded,
    report_of,
)
from tests.tls import Authority
from tests.waiting import eventually

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
    "size", [1400, *(pytest.param(size, marks=pytest.mark.slow) for size in (0, 4096, 16384))]
)
def test_46_a_capture_over_tls_is_exact_with_records_of_one_size(
    studio: Studio, trusted: Authority, size: int
) -> None:
    """Of one frame, if it is 0."""
    market = SyntheticMarket(rate=20_000, trades=5_000)
    studio.authority = trusted
    with studio.exchange(market, [Fault("records", size=size)], settle=0.05) as server:
        report = record(studio, server, played(server), ["AAPL", "MSFT", "NVDA"])
        assert published(studio.data_dir) == sent(all_sent(server))
    assert (report.books.recorded, report.reconnects) == (5_000, 0)
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


# --- how a connection over TLS ends --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("close", after_trades=10), "closed by the server (1001)"),
        (
            Fault("close-notify", after_trades=10),
            "connection lost: TLS ended without a close frame",
        ),
        (Fault("drop", after_trades=10), "connection lost: TCP ended without a close frame"),
        (Fault("half-record", after_trades=10), "ping unanswered for 0.3 s"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_121_each_end_over_tls_has_its_cause_and_loses_nothing_that_was_sent(
    studio: Studio, trusted: Authority, fault: Fault, reason: str
) -> None:
    studio.authority = trusted
    with studio.exchange(ScriptedSource(numbered(20)), [fault], settle=0.05) as server:
        report = record(studio, server, played(server))
    (gap,) = report.outages
    assert gap.reason == reason
    assert (gap.end - gap.start).total_seconds() < QUICK_BOUND + SLACK
    assert (server.dials, report.reconnects) == (2, 1)
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}
    assert findings(studio.data_dir) == []


def test_121_a_reset_over_tls_is_reported_as_one(studio: Studio, trusted: Authority) -> None:
    """What is under way is lost with it, so that it waits until nothing is."""
    studio.authority = trusted

    def scenario(server: Simulator) -> Scenario:
        yield trades(10)
        server.inject(Fault("reset"))
        yield lambda status: status.connected and status.reconnects == 1

    with studio.exchange(ScriptedSource(numbered(10)), settle=0.05) as server:
        report = record(studio, server, scenario(server))
    assert [gap.reason for gap in report.outages] == [
        "connection lost: [Errno 104] Connection reset by peer"
    ]
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 11))}


# --- servers with other settings, by OpenSSL's own -----------------------------------------------


class OpensslServer:
    """``openssl s_server``, with one connection: what a socket is to ``Peer``."""

    family = socket.AF_UNIX

    def __init__(self, stack: ExitStack, chain: Chain, options: Sequence[str]) -> None:
        words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1"]
        self._process = stack.enter_context(
            subprocess.Popen(
                [*words, *chain.options, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        stack.callback(self._process.kill)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        said = b""
        while not (match := re.search(rb"ACCEPT 127\.0\.0\.1:(\d+)\n", said)):
            said += self.recv(1 << 16)
        self.url = f"wss://127.0.0.1:{int(match[1])}"

    def settimeout(self, _: float) -> None:
        """The process ends with its client."""

    def recv(self, size: int) -> bytes:
        data = os.read(self._output.fileno(), size)
        assert data, "openssl s_server ended"
        return data

    def sendall(self, data: bytes) -> None:
        self._input.write(data)
        self._input.flush()

    def command(self, letter: bytes) -> None:
        """Give a command, which it takes only at the beginning of what it reads at once."""
        self.sendall(letter)
        eventually(lambda: fcntl.ioctl(self._input, termios.FIONREAD, bytes(4)) == bytes(4))


class Chain:
    """The files of a server's certificate, which an intermediate authority signed."""

    def __init__(self, folder: Path, kind: str) -> None:
        import trustme

        key_type = trustme.KeyType[kind]
        root = trustme.CA(key_type=key_type)
        leaf = root.create_child_ca(key_type=key_type).issue_cert("127.0.0.1", key_type=key_type)
        self.root, self.key = folder / "root.pem", folder / "key.pem"
        self.leaf, self.rest = folder / "leaf.pem", folder / "rest.pem"
        root.cert_pem.write_to_path(str(self.root))
        leaf.private_key_pem.write_to_path(str(self.key))
        first, *others = leaf.cert_chain_pems
        first.write_to_path(str(self.leaf))
        self.rest.write_bytes(b"".join(each.bytes() for each in others))
        self.options = [
            "-cert",
            str(self.leaf),
            "-key",
            str(self.key),
            "-cert_chain",
            str(self.rest),
        ]


@pytest.fixture
def chain(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A chain of certificates; who connects trusts its root."""
    made = Chain(tmp_path, getattr(request, "param", "ECDSA"))
    monkeypatch.setenv("SSL_CERT_FILE", str(made.root))
    return made


def exact(studio: Studio, server: OpensslServer, command: bytes = b"") -> None:
    """Record frames of this server, with its command between each hundred; nothing may be lost."""
    frames = [trade_frame(("AAPL", n + 1.0)) for n in range(300)]
    serving = ThreadPoolExecutor(1).submit(serve_upgrade, server)

    def scenario() -> Scenario:
        yield connected
        for at in range(0, 300, 100):
            server.sendall(b"".join(map(frame, frames[at : at + 100])))
            yield trades(at + 100)
            if command:
                server.command(command)

    report = record(studio, server.url, scenario(), ping_interval="8s", pong_timeout="8s")
    serving.result(PATIENCE)
    assert (report.reconnects, report.outages) == (0, [])
    assert published(studio.data_dir) == sent(frames)
    assert findings(studio.data_dir) == []


def serve_upgrade(server: OpensslServer) -> None:
    peer = Peer(cast("socket.socket", server))
    peer.upgrade()
    peer.commands(1)


NEEDS_OPENSSL = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the command openssl"
)


@NEEDS_OPENSSL
@pytest.mark.parametrize(
    ("chain", "options"),
    [
        ("ECDSA", []),
        ("RSA", ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]),
        *(
            pytest.param(kind, options.split(), marks=pytest.mark.slow)
            for kind, options in [
                ("RSA", ""),
                ("ECDSA", "-tls1_2"),
                ("ECDSA", "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305 -no_ticket"),
                ("RSA", "-tls1_2 -cipher ECDHE-RSA-AES256-SHA384 -serverpref"),
                ("RSA", "-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256 -num_tickets 0"),
                ("ECDSA", "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256 -num_tickets 16"),
                ("ECDSA", "-max_send_frag 1400"),
            ]
        ),
    ],
    indirect=["chain"],
)
def test_122_a_capture_of_a_server_with_other_tls_is_exact(
    studio: Studio, sockets: ExitStack, chain: Chain, options: list[str]
) -> None:
    exact(studio, OpensslServer(sockets, chain, options))


@NEEDS_OPENSSL
@pytest.mark.parametrize(
    ("options", "command", "message"),
    [
        ("-tls1_3", b"K\n", "KeyUpdate"),
        pytest.param("-tls1_3", b"k\n", "KeyUpdate", marks=pytest.mark.slow),
        pytest.param("-tls1_2", b"r\n", "ClientHello", marks=pytest.mark.slow),
    ],
    ids=["update of both keys", "update of the server's key", "renegotiation"],
)
def test_122_a_server_that_changes_its_keys_costs_no_trade(
    studio: Studio, sockets: ExitStack, chain: Chain, options: str, command: bytes, message: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    told = tmp_path / "messages"
    flags = [options, "-msg", "-msgfile", str(told)]
    exact(studio, OpensslServer(sockets, chain, flags), command)
    assert told.read_text().count(f", {message}") >= 2


def test_122_a_server_that_leaves_out_the_intermediate_is_refused_at_once(
    studio: Studio, sockets: ExitStack, chain: Chain
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain.leaf, chain.key)
    listener = Listener(sockets, context)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(listener.accept)
        with pytest.raises(BadCertificate, match="unable to get local issuer certificate"):
            record(studio, listener.url)
