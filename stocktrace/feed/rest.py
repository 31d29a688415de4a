"""Finnhub's REST side: one door for requests, that paces itself and tries again.

- The key travels in a header, never in the URL, and no redirect is followed with it.
- 401 (the key) and 403 (its plan) are final, 404 is an answer. 429, 5xx, and a connection that
  fails are tried again, a few times: after a 429 when the server says, else in the next minute
  (FINNHUB.md, "REST"); after the others with the feed's backoff.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from stocktrace.deadline import NS_PER_SECOND, SYSTEM_CLOCK, Clock
from stocktrace.errors import BadAnswer, KeyRefused, NoSuchTicks, NotInPlan, ServerAway
from stocktrace.feed.backoff import Backoff

#: How often a request is made before the server counts as away.
ATTEMPTS = 6
# "Every plan 30 a second."
_PACE_S = 1 / 30
_MINUTE_S = 60.0
# A server that asks for more patience is away, for now.
_PATIENCE_S = 300.0
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


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


@dataclass(slots=True)
class Rest:
    """REST at ``url``, for one key; a context manager, for one thread.

    ``pause`` lets seconds pass.
    """

    url: str
    key: str = field(repr=False)
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)
    pause: Callable[[float], None] = field(default=_pause, repr=False)
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
            self._next = self.clock.monotonic() + _PACE_S
            try:
                answer = self._client.get(path, params=query)
            except httpx.RequestError as error:
                # Not chained: the error holds the request, and that the key.
                reason, wait = f"{type(error).__name__}: {error}", backoff.wait()
            else:
                if answer.status_code == 200:
                    self._spare(answer)
                    return answer.content
                self._refused(answer)
                reason, wait = f"HTTP {answer.status_code}", self._patience(answer, backoff)
                if wait > _PATIENCE_S:
                    reason += f", come again in {wait:.0f} s"
                    break
            if attempt < ATTEMPTS:
                self._wait(wait)
        raise ServerAway(f"{self.url} does not answer ({reason}): run it again later.")

    def _refused(self, answer: httpx.Response) -> None:
        """Raise what need not be tried again."""
        status = answer.status_code
        if status == 401:
            raise KeyRefused(status)
        if status == 403:
            raise NotInPlan
        if status == 404:
            raise NoSuchTicks("HTTP 404")
        if status != 429 and status < 500:
            raise BadAnswer(f"{self.url} answered HTTP {status}.")

    def _patience(self, answer: httpx.Response, backoff: Backoff) -> float:
        """Seconds until it is worth while to ask again."""
        told = answer.headers.get("Retry-After", "")
        if told.isdecimal():
            return float(told)
        if answer.status_code == 429:
            return self._until_next_minute() + random.random()
        return backoff.wait()

    def _spare(self, answer: httpx.Response) -> None:
        """Ask nothing more in a minute of which no request is left."""
        if answer.headers.get("X-Ratelimit-Remaining") == "0":
            self._next = self.clock.monotonic() + self._until_next_minute()

    def _until_next_minute(self) -> float:
        return _MINUTE_S - self.clock.wall() / NS_PER_SECOND % _MINUTE_S

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.pause(seconds)
