"""REST on its way: redirects, certificates and proxies (stories 48, 50 and 51)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from stocktrace.errors import BadCertificate, InvalidResponse, ProxyUnusable, ServerUnavailable
from stocktrace.feed.rest import RestClient, rest_url
from tests.feed.conftest import PATIENCE, Listener
from tests.tls import Authority

pytestmark = pytest.mark.usefixtures("no_proxy")
KEY = "a-key"

Get = Callable[..., "Future[bytes]"]


@pytest.fixture
def get() -> Iterator[Get]:
    """Makes one request, on another thread."""
    with ThreadPoolExecutor(1) as pool:

        def work(url: str) -> bytes:
            with RestClient(rest_url(url), KEY, pause=lambda _: None) as rest:
                return rest.get("stock/tick", symbol="A")

        yield lambda url: pool.submit(work, url)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def moved(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


def test_51_a_redirect_on_the_same_site_is_followed_with_the_key(
    get: Get, listener: Listener
) -> None:
    body = get(listener.url)
    peer = listener.accept()
    for target in ("/api/v1/stock/tick?symbol=B", "", "tick/2"):
        request = peer.request()
        assert f"X-Finnhub-Token: {KEY}" in request
        peer.send(moved(target) if target else ok(b"ticks"))
        if not target:
            break
    assert request.startswith("GET /api/v1/stock/tick?symbol=B HTTP/1.1\r\n")
    assert body.result(PATIENCE) == b"ticks"


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/", "http://127.0.0.1:1/", "https:/x"])
def test_51_the_key_is_not_sent_to_another_site(get: Get, listener: Listener, target: str) -> None:
    body = get(listener.url)
    port = listener.url.rpartition(":")[2]
    peer = listener.accept()
    peer.request()
    peer.send(moved(target.format(port=port)))
    error = body.exception(PATIENCE)
    assert isinstance(error, InvalidResponse)
    assert "and the key is only sent to its own site" in str(error)
    assert not listener.dialled()


def test_51_a_circle_of_redirects_ends(get: Get, listener: Listener) -> None:
    body = get(listener.url)
    peer = listener.accept()
    for _ in range(6):
        peer.request()
        peer.send(moved("/api/v1/x"))
    error = body.exception(PATIENCE)
    assert isinstance(error, InvalidResponse)
    assert str(error).endswith(" redirects in a circle.")


def test_48_a_certificate_that_rest_cannot_verify_ends_it_at_once(
    get: Get, sockets: ExitStack, authority: Authority
) -> None:
    listener = Listener(sockets, authority.server())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(listener.accept)  # which fails: the client hangs up
        error = get(listener.url).exception(PATIENCE)
    assert isinstance(error, BadCertificate)
    assert "set SSL_CERT_FILE" in str(error)
    assert not listener.dialled()


def test_48_rest_trusts_the_authorities_that_the_feed_trusts(
    get: Get, sockets: ExitStack, authority: Authority, trusted: Authority
) -> None:
    listener = Listener(sockets, authority.server())
    body = get(listener.url)
    peer = listener.accept()
    peer.request()
    peer.send(ok(b"ticks"))
    assert body.result(PATIENCE) == b"ticks"


@pytest.mark.parametrize(
    ("status", "kind"), [(407, ProxyUnusable), (403, ProxyUnusable), (502, ServerUnavailable)]
)
def test_50_rest_asks_the_proxy_of_the_feed(
    get: Get,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[Exception],
) -> None:
    proxy = listener.url.removeprefix("ws://")
    monkeypatch.setenv("ALL_PROXY", f"http://me:secret@{proxy}")
    body = get("wss://exchange.example")
    request = listener.accept().refuse(status)
    assert request.startswith("CONNECT exchange.example:443 HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic " in request
    assert KEY not in request
    if kind is ServerUnavailable:
        for _ in range(5):
            listener.accept().refuse(status)
    error = body.exception(PATIENCE)
    assert isinstance(error, kind)
    assert "secret" not in str(error)
    assert str(status) in str(error)


def test_105_rest_refuses_a_socks_proxy_in_one_sentence(
    get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1080")
    error = get("wss://exchange.example").exception(PATIENCE)
    assert isinstance(error, ProxyUnusable)
