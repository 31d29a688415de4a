"""The steps of an attempt: each ends when it is aborted, and is named when it takes too long."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websocket import WebSocketException

from stocktrace.errors import BadCertificate, WrongScheme
from stocktrace.feed.transport import Transport
from tests.feed.conftest import PATIENCE, Listener, Peer, deaf
from tests.tls import Authority


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


Reach = Callable[..., tuple[Transport, "Future[socket.socket]"]]


@pytest.fixture
def reach(sockets: ExitStack) -> Iterator[Reach]:
    """Reaches for a server on another thread."""
    with ThreadPoolExecutor(1) as pool:

        def reach(url: str, within_s: float = PATIENCE) -> tuple[Transport, Future[socket.socket]]:
            line = Transport()
            sockets.callback(line.abort)
            return line, pool.submit(line.connect, url, within_s)

        yield reach


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
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
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
        sock = line._socket
        if sock is not None and sock.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 1) == b"\x02":
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


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    reach: Reach, sockets: ExitStack, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(listener.url.rpartition(":")[2])
    lookup(monkeypatch, ("127.0.0.1", deaf(sockets)), ("127.0.0.1", port))
    _, reached = reach("ws://exchange.example", within_s=1.0)
    listener.accept()
    sock = reached.result(PATIENCE)
    assert sock.gettimeout() == 1.0
    sock.close()


def test_each_address_that_was_tried_is_named(
    reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup(monkeypatch, ("::1", 1), ("127.0.0.1", 1))
    _, reached = reach("ws://exchange.example:1")
    told = str(reached.exception(PATIENCE))
    assert re.fullmatch(r"\[::1\]:1: .+; 127\.0\.0\.1:1: Connection refused", told)


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


# --- a proxy ---------------------------------------------------------------------------------


def proxied(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> str:
    """Has the environment name ``listener`` as the proxy; its address."""
    proxy = listener.url.removeprefix("ws://")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://user:pa%24s@{proxy}")
    return proxy


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_proxy_of_the_environment_is_asked_for_a_tunnel(
    reach: Reach,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    authority: Authority,
    trusted: Authority,
    scheme: str,
) -> None:
    proxied(monkeypatch, listener)
    _, reached = reach(f"{scheme}://exchange.example:444")
    peer = listener.accept()
    line, *headers = peer.request().split("\r\n")
    assert line == "CONNECT exchange.example:444 HTTP/1.1"
    word = base64.b64encode(b"user:pa$s").decode()
    assert headers == ["Host: exchange.example:444", f"Proxy-Authorization: Basic {word}"]
    peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    if scheme == "wss":
        peer = Peer(authority.server("exchange.example").wrap_socket(peer.sock, server_side=True))
    with reached.result(PATIENCE) as sock:
        peer.send(b"hello")
        assert sock.recv(5) == b"hello"
    peer.sock.close()


def test_a_proxy_that_refuses_is_named_without_the_password(
    reach: Reach, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxied(monkeypatch, listener)
    _, reached = reach("wss://exchange.example")
    listener.accept().refuse(407)
    assert str(reached.exception(PATIENCE)) == (
        f"the proxy {proxy} refused CONNECT exchange.example:443 (HTTP 407)"
    )


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
