"""Finnhub's REST API (docs/finnhub.md, "REST"): paced requests with retries, and a day's ticks.

- The key is sent in a header, never in the URL, and redirects are followed on the same site only.
- 401 (the key), 403 (its plan), a bad certificate and a proxy that refuses are final, and 404 is an
  answer. 429, 5xx and a failed connection
  are tried again a few times: after a 429 when the server says, or in the next minute; after the
  others with the feed's backoff.
- Ticks (``/stock/tick``) come in pages, until the announced number has come. Rows of zeros after
  those of a page are padding (#295), rows after the announced number are repeats (#296). If fewer
  rows come than were announced, the day is not used, because nothing says which rows are missing.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import (
    InvalidResponse,
    KeyRefused,
    PlanForbidden,
    ProxyUnusable,
    ServerUnavailable,
    TicksNotFound,
)
from stocktrace.feed.proxy import Proxy, find_proxy, format_address
from stocktrace.feed.reconnect import Backoff
from stocktrace.feed.transport import create_tls_context, explain_tls_error
from stocktrace.settings import Settings
from stocktrace.units import NS_PER_SECOND

#: How often a request is made before ``ServerUnavailable`` is raised.
ATTEMPTS = 6
# "Every plan 30 a second."
_REQUEST_INTERVAL_S = 1 / 30
_MINUTE_S = 60.0
# A server that asks for a longer wait is not available for now.
_MAX_RETRY_S = 300.0
# A page of ticks is 1 to 2 MB, made when it is asked for.
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_PATH = "/api/v1/"
_MAX_REDIRECTS = 5


def rest_url(feed: str) -> str:
    """Return the address of REST for a feed: ``https://finnhub.io/api/v1/`` for Finnhub's."""
    parts = urlsplit(feed)
    scheme = {"ws": "http", "wss": "https"}[parts.scheme]
    return urlunsplit((scheme, parts.netloc.removeprefix("ws."), _PATH, "", ""))


@dataclass(slots=True)
class RestClient:
    """A context manager that makes requests to ``url`` with one key; for one thread.

    ``pause`` waits for some seconds.
    """

    url: str
    key: str = field(repr=False)
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    pause: Callable[[float], object] = field(default=threading.Event().wait, repr=False)
    _client: httpx.Client = field(init=False, repr=False)
    _server: str = field(init=False, repr=False)
    _proxy: Proxy | None = field(init=False, repr=False)
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        url = urlsplit(self.url)
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        self._server = format_address(url.hostname or "", port)
        self._proxy = proxy = find_proxy(url.hostname or "", port, secure=secure)
        self._client = httpx.Client(
            base_url=self.url,
            headers={"X-Finnhub-Token": self.key},
            timeout=_TIMEOUT,
            proxy=httpx.Proxy(f"http://{proxy}", auth=proxy.login) if proxy else None,
            trust_env=False,  # proxies and certificates are those of the feed
            verify=create_tls_context() if secure else True,
        )

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return a client for the host and the key of the settings; raises ``SettingsError``."""
        return cls(rest_url(settings.url), settings.key())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int) -> bytes:
        """Make a request and return the body of the answer.

        Raises:
            KeyRefused: 401.
            BadCertificate, WrongScheme, ProxyUnusable: see ``Transport.connect``.
            PlanForbidden: 403.
            TicksNotFound: 404.
            InvalidResponse: another final status, or a redirect to another site.
            ServerUnavailable: all attempts failed.
        """
        backoff = Backoff(1.0, 30.0, 0.2, _MINUTE_S, random.SystemRandom())
        reason = ""
        wait = 0.0
        for _ in range(ATTEMPTS):
            self._wait(wait)
            self._wait(self._next - self.clock.monotonic())
            self._next = self.clock.monotonic() + _REQUEST_INTERVAL_S
            try:
                answer = self._request(path, query)
            except httpx.RequestError as error:
                if final := self._explain(error):
                    raise final from None
                # Not chained: the error holds the request, and that the key.
                reason, wait = f"{type(error).__name__}: {error}", backoff.next_delay()
            else:
                if answer.status_code == 200:
                    if answer.headers.get("X-Ratelimit-Remaining") == "0":
                        self._next = self.clock.monotonic() + self._until_next_minute()
                    return answer.content
                self._raise_if_final(answer)
                reason, wait = f"HTTP {answer.status_code}", self._retry_delay(answer, backoff)
                if wait > _MAX_RETRY_S:
                    reason += f", retry after {wait:.0f} s"
                    break
        raise ServerUnavailable(f"{self.url} does not answer ({reason}): run it again later.")

    def _request(self, path: str, query: dict[str, str | int]) -> httpx.Response:
        answer = self._client.get(path, params=query)
        for _ in range(_MAX_REDIRECTS):
            request = answer.next_request
            if request is None:
                return answer
            site, target = [
                (url.scheme, url.host, url.port) for url in (answer.request.url, request.url)
            ]
            if target != site:
                raise InvalidResponse(
                    f"{self.url} redirects to {request.url.copy_with(raw_path=b'/')}, and the key "
                    "is only sent to its own site. If that is Finnhub's new site, set "
                    "STOCKTRACE_URL or --url to it."
                )
            answer = self._client.send(request)
        raise InvalidResponse(f"{self.url} redirects in a circle.")

    def _explain(self, error: httpx.RequestError) -> Exception | None:
        """Return the exception for a failure that waiting does not cure, or ``None``."""
        if isinstance(error, httpx.ProxyError) and self._proxy is not None:
            status = str(error)[:3]
            refusal = self._proxy.refusal(int(status) if status.isdecimal() else 0, self._server)
            return refusal if isinstance(refusal, ProxyUnusable) else None
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return explain_tls_error(self._server, cause)
            cause = cause.__cause__ or cause.__context__
        return None

    def _raise_if_final(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == 401:
            raise KeyRefused(status)
        if status == 403:
            raise PlanForbidden
        if status == 404:
            raise TicksNotFound("HTTP 404")
        if status != 429 and status < 500:
            raise InvalidResponse(f"{self.url} answered HTTP {status}.")

    def _retry_delay(self, answer: httpx.Response, backoff: Backoff) -> float:
        seconds = answer.headers.get("Retry-After", "")
        if seconds.isdecimal():
            return float(seconds)
        if answer.status_code == 429:
            return self._until_next_minute() + random.random()
        return backoff.next_delay()

    def _until_next_minute(self) -> float:
        return _MINUTE_S - self.clock.wall() / NS_PER_SECOND % _MINUTE_S

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.pause(seconds)


#: Rows per page.
PAGE_LIMIT = 25_000
# Ten times the busiest day of any US stock.
_MAX_TICKS = 50_000_000


@dataclass(frozen=True, slots=True)
class TickPage:
    """Some ticks of one ticker, in the server's order; columns of one length.

    ``t`` UNIX ms · ``p`` price · ``v`` volume · ``c`` condition codes, separated by spaces.
    """

    t: list[int]
    p: list[float]
    v: list[float]
    c: list[str]


class _TickResponse(msgspec.Struct):
    total: int
    t: list[int] | None
    p: list[float] | None
    v: list[float] | None
    c: list[list[str] | None] | None = None


_decode = msgspec.json.Decoder(_TickResponse).decode


def fetch_ticks(rest: RestClient, ticker: str, day: date) -> Iterator[TickPage]:
    """Yield the ticks of a ticker's New York trading day, with extended hours, page by page.

    Raises:
        InvalidResponse: they are unreadable, incomplete, or changed between pages. The pages
            before must not be used.
        FeedError: see ``RestClient.get``.
    """
    total, skip, count, reached = None, 0, 0, 0
    while total is None or skip < total:
        body = rest.get(
            "stock/tick", symbol=ticker, date=day.isoformat(), limit=PAGE_LIMIT, skip=skip
        )
        response = _decode_response(body, ticker, day)
        if total is not None and response.total != total:
            raise InvalidResponse(f"The ticks of {ticker} on {day} changed while they were read.")
        total = response.total
        times = response.t or []
        reached = skip + len(times)
        rows = [row for row, time in enumerate(times) if time != 0][: total - count]
        if not rows:
            break
        skip += rows[-1] + 1
        count += len(rows)
        yield _tick_page(response, rows)
    if total not in (count, reached):
        raise InvalidResponse(f"The server sent {count:,} of {total:,} ticks of {ticker} on {day}.")


def _decode_response(body: bytes, ticker: str, day: date) -> _TickResponse:
    try:
        response = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidResponse(f"The ticks of {ticker} on {day} cannot be read: {error}.") from error
    lengths = {len(column or ()) for column in (response.t, response.p, response.v)}
    if response.c is not None:
        lengths.add(len(response.c))
    if len(lengths) > 1 or not 0 <= response.total <= _MAX_TICKS:
        raise InvalidResponse(
            f"The ticks of {ticker} on {day} cannot be read: their columns differ."
        )
    return response


def _tick_page(response: _TickResponse, rows: list[int]) -> TickPage:
    times, prices, volumes = response.t or [], response.p or [], response.v or []
    codes = response.c or [None] * len(times)
    return TickPage(
        [times[row] for row in rows],
        [prices[row] for row in rows],
        [volumes[row] for row in rows],
        [" ".join(codes[row] or ()) for row in rows],
    )
