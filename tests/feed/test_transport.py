"""The steps of an attempt: each ends when it is aborted, and is named when it takes too long."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websocket import WebSocketException

from stocktrace.errors import BadCertificate, WrongScheme
from stocktrace.feed.transport import Transport, _by_turns, explain_tls_error
from tests.feed.conftest import PATIENCE, Listener, Reach, deaf
from tests.tls import Authority
from tests.waiting import eventually


def lookup(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Any name has these addresses."""
    found = [
        (
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_STREAM,
            0,
            "",
            (host, port),
        )
        for host, port in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


# --- hanging up ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["TCP", "TLS", "proxy"])
def test_aborting_ends_it_at_once(
    reach: Reach, sockets: ExitStack, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(sockets)
    port = listener.url.rpartition(":")[2]
    if step == "proxy":
        monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")
    url = {
        "TCP": f"ws://127.0.0.1:{deaf(sockets)}",
        "TLS": f"wss://127.0.0.1:{port}",
        "proxy": "ws://exchange.example",
    }[step]
    line, reached = reach(url)
    if step == "TCP":
        wait_for_syn(line)
    else:
        silent = listener.accept()
        assert silent.sock.recv(1)
    line.abort()
    assert isinstance(reached.exception(PATIENCE / 2), (OSError, WebSocketException))


def wait_for_syn(line: Transport) -> None:
    """Until the attempt is under way (TCP_INFO begins with the state: 2 is SYN_SENT)."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        states = [
            sock.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 1) for sock in list(line._sockets)
        ]
        if states == [b"\x02"]:
            return
        waiting.wait(0.01)
    raise AssertionError(line.step)


def test_after_an_aborted_lookup_no_socket_is_opened(
    reach: Reach, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, answer, real = threading.Event(), threading.Event(), socket.getaddrinfo

    def slow(*given: Any, **options: Any) -> Any:
        looking.set()
        assert answer.wait(PATIENCE)
        return real(*given, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    line, reached = reach(listener.url)
    assert looking.wait(PATIENCE)
    assert line.step == "the name lookup of 127.0.0.1"
    line.abort()
    answer.set()
    assert isinstance(reached.exception(PATIENCE), ConnectionAbortedError)
    assert not listener.dialled()


def test_an_attempt_that_was_aborted_before_opens_no_socket(
    reach: Reach, listener: Listener
) -> None:
    line = Transport()
    line.abort()
    with pytest.raises(ConnectionAbortedError):
        line.connect(listener.url, PATIENCE)
    assert not listener.dialled()


# --- addresses -------------------------------------------------------------------------------


def test_47_an_address_that_does_not_answer_does_not_delay_the_next(
    reach: Reach, sockets: ExitStack, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if each name has many: a share of the time for each of them would be too short."""
    monkeypatch.setattr("stocktrace.feed.transport.STAGGER_S", 0.001)
    port = int(listener.url.rpartition(":")[2])
    silent = ("127.0.0.1", deaf(sockets))
    lookup(monkeypatch, *[silent] * 50, ("127.0.0.1", port))
    line, reached = reach("ws://exchange.example")
    listener.accept()
    with reached.result(PATIENCE) as sock:
        assert sock.gettimeout() == PATIENCE
        assert line._sockets == [sock], "the others are closed"


def test_47_attempts_overlap_and_all_of_them_end_when_it_is_aborted(
    reach: Reach, sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = deaf(sockets)
    lookup(monkeypatch, ("127.0.0.1", port), ("127.0.0.1", port))
    line, reached = reach("ws://exchange.example:1")
    eventually(lambda: line.step == "the connection attempt to 127.0.0.1:1, 127.0.0.1:1")
    pending = line._sockets
    line.abort()
    assert isinstance(reached.exception(PATIENCE / 2), ConnectionAbortedError)
    assert [sock.fileno() for sock in pending] == [-1, -1]


def test_47_the_families_of_a_name_take_turns() -> None:
    found = [(family, number) for number, family in enumerate([6, 6, 6, 4, 4])]
    assert list(_by_turns(found)) == [(6, 0), (4, 3), (6, 1), (4, 4), (6, 2)]


def test_47_an_attempt_that_fails_lets_the_next_begin_at_once(
    reach: Reach, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stocktrace.feed.transport.STAGGER_S", 2 * PATIENCE)
    port = int(listener.url.rpartition(":")[2])
    lookup(monkeypatch, ("::1", 1), ("127.0.0.1", 1), ("127.0.0.1", port))
    _, reached = reach("ws://exchange.example:1")
    listener.accept()
    reached.result(PATIENCE).close()


@pytest.mark.parametrize("silent", [False, True])
def test_47_each_address_that_was_tried_is_named(
    reach: Reach, sockets: ExitStack, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    last = deaf(sockets) if silent else 1
    lookup(monkeypatch, ("::1", 1), ("127.0.0.1", last))
    _, reached = reach("ws://exchange.example:1", 0.5 if silent else PATIENCE)
    reason = "no answer in 0.5 s" if silent else "Connection refused"
    told = str(reached.exception(PATIENCE))
    assert re.fullmatch(rf"\[::1\]:1: .+; 127\.0\.0\.1:1: {reason}", told)


def test_an_address_without_an_answer_is_named_as_the_step(
    reach: Reach, sockets: ExitStack
) -> None:
    port = deaf(sockets)
    line, reached = reach(f"ws://127.0.0.1:{port}", within_s=0.1)
    assert isinstance(reached.exception(PATIENCE), TimeoutError)
    assert line.step == f"the connection attempt to 127.0.0.1:{port}"


def test_an_unknown_name_is_reported(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    _, reached = reach("wss://exchange.example")
    assert str(reached.exception(PATIENCE)) == "exchange.example: Name or service not known"


# --- TLS -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trust", "name", "days", "problem", "remedy"),
    [
        (False, "127.0.0.1", 1, "unable to get local issuer", "set SSL_CERT_FILE (now {now}) to"),
        (True, "127.0.0.2", 1, "IP address mismatch", "set STOCKTRACE_URL or --url to the name"),
        (True, "127.0.0.1", -1, "certificate has expired", "check the clock of this machine, or"),
    ],
    ids=["unknown authority", "other host", "expired"],
)
def test_a_certificate_that_cannot_be_verified_is_reported_with_the_remedy(
    reach: Reach,
    sockets: ExitStack,
    authority: Authority,
    trusted: Authority,
    monkeypatch: pytest.MonkeyPatch,
    trust: bool,
    name: str,
    days: int,
    problem: str,
    remedy: str,
) -> None:
    """The remedy is true: with SSL_CERT_FILE set to the authority it is trusted."""
    if not trust:
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    until = datetime.now(UTC) + timedelta(days=days)
    listener = Listener(sockets, authority.server(name, not_after=until))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(listener.accept)  # which fails: the client hangs up
        _, reached = reach(listener.url)
        error = reached.exception(PATIENCE)
    assert isinstance(error, BadCertificate)
    server = listener.url.removeprefix("wss://")
    assert str(error).startswith(f"The certificate of {server} cannot be verified ({problem}")
    assert f"): {remedy.format(now='/nowhere.pem')}" in str(error)
    assert str(error).endswith(("certificates.", "is for.", "renewed."))


def test_a_server_without_tls_is_distinguished_from_one_that_closed(
    reach: Reach, listener: Listener
) -> None:
    url = listener.url.replace("ws:", "wss:")
    server = url.removeprefix("wss://")
    _, reached = reach(url)
    peer = listener.accept()
    assert peer.sock.recv(1)
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    error = reached.exception(PATIENCE)
    assert isinstance(error, WrongScheme)
    assert str(error) == (
        f"{server} does not use TLS. Set STOCKTRACE_URL or --url to an address that starts with "
        "ws://."
    )
    _, reached = reach(url)
    listener.accept().sock.close()
    assert str(reached.exception(PATIENCE)) == (
        f"{server} closed the connection in the TLS handshake; if it does not speak TLS, its "
        "address begins with ws://"
    )


def test_60_a_certificate_that_is_not_valid_yet_is_tried_again_while_the_clock_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    assert isinstance(explain_tls_error("exchange.example:443", error), BadCertificate)
    monkeypatch.setattr(time, "time_ns", lambda: 20 * 10**9)
    assert explain_tls_error("exchange.example:443", error) is None
    error.verify_code = 10
    assert isinstance(explain_tls_error("exchange.example:443", error), BadCertificate)
