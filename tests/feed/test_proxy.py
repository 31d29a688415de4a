"""Stories 50 and 105: proxies that the environment names, and what they answer."""

from __future__ import annotations

import base64
import socket
from contextlib import ExitStack

import pytest

from stocktrace.errors import ProxyUnusable
from stocktrace.feed.proxy import find_proxy
from tests.feed.conftest import PATIENCE, Listener, Peer, Reach
from tests.tls import Authority

pytestmark = pytest.mark.usefixtures("no_proxy")


def proxied(monkeypatch: pytest.MonkeyPatch, listener: Listener, login: str = "") -> str:
    """Has the environment name ``listener`` as the proxy; its address."""
    proxy = listener.url.removeprefix("ws://")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{login}{proxy}")
    return proxy


# --- the environment -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "secure", "found"),
    [
        ({}, True, None),
        ({"HTTPS_PROXY": "http://a:1"}, True, "a:1"),
        ({"HTTPS_PROXY": "http://a:1"}, False, None),
        ({"HTTP_PROXY": "http://a:1", "ALL_PROXY": "http://b:2"}, False, "a:1"),
        ({"HTTP_PROXY": "http://a:1", "ALL_PROXY": "http://b:2"}, True, "b:2"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}, True, "b:2"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": ""}, True, None),
        ({"https_proxy": "a:3128"}, True, "a:3128"),
        ({"https_proxy": "user:word@a"}, True, "a:80"),
        ({"https_proxy": " http://[::1]:1/ "}, True, "[::1]:1"),
    ],
)
def test_50_the_proxy_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], secure: bool, found: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy("ws.exchange.example", 443, secure=secure)
    assert (None if proxy is None else str(proxy)) == found


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("ws.exchange.example", "exchange.example", True),
        ("ws.exchange.example", "other.example, .Exchange.example", True),
        ("ws.exchange.example", "*.exchange.example", True),
        ("ws.exchange.example", "*", True),
        ("ws.exchange.example", "exchange.example:443", True),
        ("ws.exchange.example", "exchange.example:80", False),
        ("ws.exchange.example", "change.example,,10.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "11.0.0.0/8,nonsense/99", False),
        ("fd00::1", "[fd00::1]", True),
        ("localhost", "", True),
        ("127.0.0.2", "", True),
        ("::1", "", True),
    ],
)
def test_50_hosts_in_no_proxy_and_this_machine_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str, direct: bool
) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (find_proxy(host, 443, secure=True) is None) == direct


@pytest.mark.parametrize("kind", ["socks5", "socks5h", "socks4", "https"])
def test_105_a_proxy_of_another_kind_is_refused_in_one_sentence(
    reach: Reach, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{kind}://me:secret@proxy.example:1080")
    _, reached = reach("wss://exchange.example")
    error = reached.exception(PATIENCE)
    assert isinstance(error, ProxyUnusable)
    assert str(error) == (
        f"The proxy proxy.example:1080 of ALL_PROXY is not an HTTP proxy ({kind}://), and no other "
        "is supported. Set ALL_PROXY to http://HOST:PORT, or add exchange.example to NO_PROXY."
    )


@pytest.mark.parametrize(
    "value", ["http://me:sec#ret@proxy:1", "http://me:sec/ret@proxy:1", "http://:1", "http://a:b"]
)
def test_105_what_is_not_an_address_is_refused_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(ProxyUnusable) as caught:
        find_proxy("exchange.example", 443, secure=True)
    assert str(caught.value).startswith("https_proxy is not the address of a proxy. Use http://")
    assert "sec" not in str(caught.value).removeprefix("https_proxy is")


# --- its answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_50_a_proxy_is_asked_for_a_tunnel(
    reach: Reach,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    authority: Authority,
    trusted: Authority,
    scheme: str,
) -> None:
    proxy = proxied(monkeypatch, listener, "user:pa%24s@")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:pa%24s@{proxy}")
    line, reached = reach(f"{scheme}://exchange.example:444")
    peer = listener.accept()
    request, *headers = peer.request().split("\r\n")
    assert request == "CONNECT exchange.example:444 HTTP/1.1"
    words = base64.b64encode(b"user:pa$s").decode()
    assert headers == ["Host: exchange.example:444", f"Proxy-Authorization: Basic {words}"]
    more = b"hello" if scheme == "ws" else b""  # a server may be quick
    peer.send(b"HTTP/1.0 201 Connection established\r\nVia: x\r\n\r\n" + more)
    if scheme == "wss":
        peer = Peer(authority.server("exchange.example").wrap_socket(peer.sock, server_side=True))
        peer.send(b"hello")
    with reached.result(PATIENCE) as sock:
        assert sock.recv(5) == b"hello"
    assert line.step == f"the handshake through the proxy {proxy}"
    peer.sock.close()


@pytest.mark.parametrize(
    ("login", "status", "headers", "remedy"),
    [
        ("", 407, "", "Put a user and a password into HTTPS_PROXY: http://USER:PASSWORD@{proxy}."),
        ("me:secret@", 407, "", "Correct the user and the password in HTTPS_PROXY."),
        ("me:secret@", 401, "", "Correct the user and the password in HTTPS_PROXY."),
        (
            "me:secret@",
            407,
            "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n",
            "It asks for Negotiate, NTLM, and only Basic is supported.",
        ),
        ("", 403, "", "Have it allow this server, or add exchange.example to NO_PROXY."),
    ],
)
def test_50_a_proxy_that_refuses_for_good_is_named_with_the_remedy_without_the_password(
    reach: Reach,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    login: str,
    status: int,
    headers: str,
    remedy: str,
) -> None:
    proxy = proxied(monkeypatch, listener, login)
    _, reached = reach("wss://exchange.example")
    listener.accept().refuse(status, headers=headers)
    error = reached.exception(PATIENCE)
    assert isinstance(error, ProxyUnusable)
    assert str(error) == (
        f"The proxy {proxy} refused CONNECT exchange.example:443 (HTTP {status}). "
        f"{remedy.format(proxy=proxy)}"
    )


@pytest.mark.parametrize("status", [429, 502, 503])
def test_50_a_proxy_that_cannot_help_now_is_asked_again(
    reach: Reach, listener: Listener, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    proxy = proxied(monkeypatch, listener)
    _, reached = reach("wss://exchange.example")
    listener.accept().refuse(status)
    error = reached.exception(PATIENCE)
    assert type(error) is OSError
    assert str(error) == f"the proxy {proxy} refused CONNECT exchange.example:443 (HTTP {status})"


@pytest.mark.parametrize(
    "answer", [b"\x15\x03\x01\x00\x02", b"SSH-2.0-x\r\n", b"HTTP/1.1 x" * 2000]
)
def test_105_a_proxy_that_does_not_speak_http_ends_it_at_once(
    reach: Reach, listener: Listener, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    proxy = proxied(monkeypatch, listener)
    _, reached = reach("wss://exchange.example")
    listener.accept().send(answer)
    error = reached.exception(PATIENCE)
    assert isinstance(error, ProxyUnusable)
    assert str(error).startswith(f"The proxy {proxy} does not answer in HTTP. Set HTTPS_PROXY to")


def test_50_a_proxy_that_cannot_be_reached_is_named_as_the_proxy(
    reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    line, reached = reach("wss://exchange.example")
    assert str(reached.exception(PATIENCE)) == "the proxy 127.0.0.1:1: Connection refused"
    assert line.step == "the connection attempt to the proxy 127.0.0.1:1"


def test_105_a_proxy_that_closes_is_asked_again(
    reach: Reach, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxied(monkeypatch, listener)
    _, reached = reach("wss://exchange.example")
    peer = listener.accept()
    peer.request()
    peer.sock.shutdown(socket.SHUT_RDWR)
    error = reached.exception(PATIENCE)
    assert str(error) == f"the proxy {proxy} closed the connection; is it an HTTP proxy?"


def test_105_a_proxy_that_drips_holds_nothing_up(
    reach: Reach, sockets: ExitStack, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is in time for the socket; the feed bounds the whole and aborts it."""
    proxied(monkeypatch, listener)
    line, reached = reach("wss://exchange.example")
    peer = listener.accept()
    for byte in b"HTTP/1.1 200 Conn":
        peer.send(bytes([byte]))
    line.abort()
    assert isinstance(reached.exception(PATIENCE / 2), OSError)
