"""Finnhub's REST side: one door for requests, that paces itself and tries again.

- The key travels in a header, never in the URL, and no redirect is followed with it.
- 401 (the key) and 403 (its plan) are final, 404 is an answer. 429, 5xx, and a connection that
  fails are tried again, a few times: after a 429 when the server says, else in the next minute
  (FINNHUB.md, "REST"); after the others with the feed's backoff.
"""
# MERGED """The ticks of a ticker's day, as REST tells them (FINNHUB.md, "REST", ``/stock/tick``).
#
# They come in pages until as many came as were announced. Rows of zeros behind a page's are padding
# (#295); what is told behind the announced number is told again (#296). A day of which less comes
# than was announced is none: nothing says what is missing of it.
# """

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import (
    InvalidResponse,
    KeyRefused,
    PlanForbidden,
    ServerUnavailable,
    TicksNotFound,
)
from stocktrace.feed.reconnect import Backoff
from stocktrace.units import NS_PER_SECOND

#: How often a request is made before the server counts as away.
ATTEMPTS = 6
# "Every plan 30 a second."
_REQUEST_INTERVAL_S = 1 / 30
_MINUTE_S = 60.0
# A server that asks for more patience is away, for now.
_MAX_RETRY_S = 300.0
# A page of ticks is 1 to 2 MB, made when it is asked for.
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_PATH = "/api/v1/"


def rest_url(feed: str) -> str:
    """Where REST is, by the address of the WebSocket: its host, without ``ws.`` in front.

    ``wss://ws.finnhub.io`` is ``https://finnhub.io/api/v1/``.
    """
    parts = urlsplit(feed)
    scheme = {"ws": "http", "wss": "https"}[parts.scheme]
    return urlunsplit((scheme, parts.netloc.removeprefix("ws."), _PATH, "", ""))


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


@dataclass(slots=True)
class RestClient:
    """REST at ``url``, for one key; a context manager, for one thread.

    ``pause`` lets seconds pass.
    """

    url: str
    key: str = field(repr=False)
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    pause: Callable[[float], None] = field(default=_sleep, repr=False)
    _client: httpx.Client = field(init=False, repr=False)
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            base_url=self.url,
            headers={"X-Finnhub-Token": self.key},
            timeout=_TIMEOUT,
            mounts={"all://127.0.0.1": None, "all://localhost": None},  # through no proxy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int) -> bytes:
        """The body of the answer to a request.

        Raises:
            KeyRefused: 401.
            NotInPlan: 403.
            NoSuchTicks: 404.
            BadAnswer: another status that says no.
            ServerAway: it could not be had.
        """
        backoff = Backoff(1.0, 30.0, 0.2, _MINUTE_S, random.SystemRandom())
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            self._wait(self._next - self.clock.monotonic())
            self._next = self.clock.monotonic() + _REQUEST_INTERVAL_S
            try:
                answer = self._client.get(path, params=query)
            except httpx.RequestError as error:
                # Not chained: the error holds the request, and that the key.
                reason, wait = f"{type(error).__name__}: {error}", backoff.next_delay()
            else:
                if answer.status_code == 200:
                    self._rate_limit_left(answer)
                    return answer.content
                self._refused(answer)
                reason, wait = f"HTTP {answer.status_code}", self._retry_delay(answer, backoff)
                if wait > _MAX_RETRY_S:
                    reason += f", come again in {wait:.0f} s"
                    break
            if attempt < ATTEMPTS:
                self._wait(wait)
        raise ServerUnavailable(f"{self.url} does not answer ({reason}): run it again later.")

    def _refused(self, answer: httpx.Response) -> None:
        """Raise what need not be tried again."""
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
        """Seconds until it is worth while to ask again."""
        told = answer.headers.get("Retry-After", "")
        if told.isdecimal():
            return float(told)
        if answer.status_code == 429:
            return self._until_next_minute() + random.random()
        return backoff.next_delay()

    def _rate_limit_left(self, answer: httpx.Response) -> None:
        """Ask nothing more in a minute of which no request is left."""
        if answer.headers.get("X-Ratelimit-Remaining") == "0":
            self._next = self.clock.monotonic() + self._until_next_minute()

    def _until_next_minute(self) -> float:
        return _MINUTE_S - self.clock.wall() / NS_PER_SECOND % _MINUTE_S

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.pause(seconds)


#: Rows a page.
PAGE_LIMIT = 25_000
# Ten times the busiest day of any US stock.
_MAX_PAGES = 50_000_000


@dataclass(frozen=True, slots=True)
class TickPage:
    """Some ticks of one ticker, in the server's order; columns of one length.

    ``t`` UNIX ms · ``p`` price · ``v`` volume · ``c`` condition codes, parted by a space.
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
    """The ticks of a ticker's New York trading day, extended hours included, page by page.

    Raises:
        BadAnswer: they cannot be read, are not all there, or change meanwhile; what was given
            before is worth nothing.
        FeedError: see ``Rest.get``.
    """
    told, place, real, reached = None, 0, 0, 0
    while told is None or place < told:
        body = rest.get(
            "stock/tick", symbol=ticker, date=day.isoformat(), limit=PAGE_LIMIT, skip=place
        )
        page = _page(body, ticker, day)
        if told is not None and page.total != told:
            raise InvalidResponse(f"The ticks of {ticker} of {day} change while they are read.")
        told = page.total
        times = page.t or []
        reached = place + len(times)
        rows = [row for row, time in enumerate(times) if time != 0][: told - real]
        if not rows:
            break
        place += rows[-1] + 1
        real += len(rows)
        yield _ticks(page, rows)
    if told not in (real, reached):
        raise InvalidResponse(f"Of {told:,} ticks of {ticker} of {day} the server gave {real:,}.")


def _page(body: bytes, ticker: str, day: date) -> _TickResponse:
    try:
        page = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidResponse(f"The ticks of {ticker} of {day} cannot be read: {error}.") from error
    lengths = {len(column or ()) for column in (page.t, page.p, page.v)}
    if page.c is not None:
        lengths.add(len(page.c))
    if len(lengths) > 1 or not 0 <= page.total <= _MAX_PAGES:
        raise InvalidResponse(
            f"The ticks of {ticker} of {day} cannot be read: their columns differ."
        )
    return page


def _ticks(page: _TickResponse, rows: list[int]) -> TickPage:
    times, prices, volumes = page.t or [], page.p or [], page.v or []
    codes = page.c or [None] * len(times)
    return TickPage(
        [times[row] for row in rows],
        [prices[row] for row in rows],
        [volumes[row] for row in rows],
        [" ".join(codes[row] or ()) for row in rows],
    )
