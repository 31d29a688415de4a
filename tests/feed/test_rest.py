from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from stocktrace.clock import Clock
from stocktrace.errors import (
    InvalidResponse,
    KeyRefused,
    PlanForbidden,
    ServerUnavailable,
    TicksNotFound,
)
from stocktrace.feed.rest import ATTEMPTS, RestClient, fetch_ticks, rest_url
from stocktrace.units import NS_PER_SECOND
from tests import gaps
from tests.gaps import DAY, KEY, exchange, market, ms

TRADES = market(["A"], 5)
#: 20 s past a full minute.
WALL = 1_763_736_020 * NS_PER_SECOND


class Pauses:
    """What would have been waited, in a world in which only waiting takes time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def clock(self) -> Clock:
        return Clock(
            wall=lambda: WALL + int(sum(self.seconds) * NS_PER_SECOND),
            monotonic=lambda: sum(self.seconds),
        )

    def long(self) -> list[float]:
        """Without those that keep the pace."""
        return [seconds for seconds in self.seconds if seconds > 0.1]


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


def fetched(rest: RestClient) -> list[tuple[int, float, float, str]]:
    return [
        row
        for page in fetch_ticks(rest, "A", DAY)
        for row in zip(page.t, page.p, page.v, page.c, strict=True)
    ]


def told() -> list[tuple[int, float, float, str]]:
    return [(ms(at), price, volume, "1 12") for _, at, price, volume in TRADES]


def rest(server: Any, pauses: Pauses, key: str = KEY) -> RestClient:
    return RestClient(rest_url(server.url), key, pauses.clock(), pauses.seconds.append)


@pytest.mark.parametrize(
    ("feed", "url"),
    [
        ("wss://ws.finnhub.io", "https://finnhub.io/api/v1/"),
        ("ws://127.0.0.1:4711", "http://127.0.0.1:4711/api/v1/"),
        ("wss://relay.example:8443/x", "https://relay.example:8443/api/v1/"),
    ],
)
def test_rest_is_at_the_host_of_the_feed(feed: str, url: str) -> None:
    assert rest_url(feed) == url


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"page_limit": 7},
        {"page_limit": 7, "padding": True},
        {"page_limit": 7, "endless": True},
        {"padding": True, "endless": True},
        {"page_limit": 58, "padding": True, "endless": True},
        {"page_limit": 29, "padding": True, "endless": True},
    ],
)
def test_a_day_is_fetched_whole_whatever_its_pages_are_like(
    faults: dict[str, Any], pauses: Pauses
) -> None:
    with exchange(TRADES, **faults) as server, rest(server, pauses) as asked:
        assert fetched(asked) == told()
        pages = -(-len(TRADES) // faults.get("page_limit", 25_000))
        assert server.rest_requests == pages


def test_a_failed_request_is_tried_again(pauses: Pauses) -> None:
    with (
        exchange(TRADES, statuses=(503, 0, 524, 502)) as server,
        rest(server, pauses) as asked,
    ):
        assert fetched(asked) == told()
        assert server.rest_requests == 5
        assert len(pauses.seconds) >= 4


def test_a_limit_is_kept_until_the_next_minute_if_the_server_does_not_say(pauses: Pauses) -> None:
    with exchange(TRADES, statuses=(429,)) as server, rest(server, pauses) as asked:
        assert fetched(asked) == told()
    (waited,) = pauses.long()
    assert 40 <= waited <= 41


def test_a_limit_is_kept_as_long_as_the_server_says(pauses: Pauses) -> None:
    with exchange(TRADES, statuses=(429,), retry_after=7) as server, rest(server, pauses) as asked:
        assert fetched(asked) == told()
    assert pauses.long() == [7]


def test_no_request_is_made_in_a_minute_without_requests_left(pauses: Pauses) -> None:
    with exchange(TRADES, page_limit=40, per_minute=1) as server, rest(server, pauses) as asked:
        with pytest.raises(ServerUnavailable):  # to the server no minute passes
            fetched(asked)
        assert pauses.long()[0] == 40


def test_requests_keep_the_pace_of_every_plan(pauses: Pauses) -> None:
    with exchange(TRADES, page_limit=10) as server, rest(server, pauses) as asked:
        fetched(asked)
    assert pauses.seconds == pytest.approx([1 / 30] * (server.rest_requests - 1))


@pytest.mark.parametrize("status", [429, 500, 0])
def test_a_server_that_never_answers_is_unavailable(status: int, pauses: Pauses) -> None:
    with exchange(TRADES, statuses=(status,) * 99) as server, rest(server, pauses) as asked:
        with pytest.raises(ServerUnavailable, match="run it again later"):
            fetched(asked)
        assert server.rest_requests == ATTEMPTS


def test_a_server_that_asks_for_hours_is_unavailable_at_once(pauses: Pauses) -> None:
    with (
        exchange(TRADES, statuses=(429,), retry_after=3600) as server,
        rest(server, pauses) as asked,
        pytest.raises(ServerUnavailable, match="retry after 3600 s"),
    ):
        fetched(asked)


@pytest.mark.parametrize(
    ("faults", "key", "error"),
    [
        ({}, "wrong", KeyRefused),
        ({"premium": False}, KEY, PlanForbidden),
        ({"not_loaded": frozenset({DAY.isoformat()})}, KEY, TicksNotFound),
        ({"statuses": (302,)}, KEY, InvalidResponse),
        ({"statuses": (422,)}, KEY, InvalidResponse),
    ],
)
def test_a_final_status_is_not_tried_again(
    faults: dict[str, Any], key: str, error: type[Exception], pauses: Pauses
) -> None:
    with exchange(TRADES, **faults) as server, rest(server, pauses, key) as asked:
        with pytest.raises(error):
            fetched(asked)
        assert server.rest_requests == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"<html>",
        b'{"total":1}',
        b'{"total":1,"t":[5],"p":[1,2],"v":[1]}',
        b'{"total":1,"t":["5"],"p":[1],"v":[1]}',
        b'{"total":-1,"t":[],"p":[],"v":[]}',
        b'{"total":1e12,"t":[5],"p":[1],"v":[1]}',
        b'{"total":9,"t":[],"p":[],"v":[]}',
        b'{"total":9,"t":null,"p":null,"v":null}',
        b'{"total":9,"t":[0,0],"p":[0,0],"v":[0,0]}',
    ],
)
def test_an_invalid_answer_is_reported(body: bytes) -> None:
    class Odd:
        def get(self, path: str, **query: object) -> bytes:
            return body

    with pytest.raises(InvalidResponse, match="A on 2025-11-21"):
        list(fetch_ticks(Odd(), "A", DAY))  # type: ignore[arg-type]


def test_a_day_that_changes_while_it_is_read_is_reported() -> None:
    class Growing:
        total = 1

        def get(self, path: str, **query: object) -> bytes:
            self.total += 1
            return b'{"total":%d,"t":[5],"p":[1],"v":[1]}' % self.total

    with pytest.raises(InvalidResponse, match="changed while"):
        list(fetch_ticks(Growing(), "A", DAY))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [b'{"total":0,"t":null,"p":null,"v":null}', b'{"total":2,"t":[0,0],"p":[0,0],"v":[0,0]}'],
)
def test_a_day_without_ticks_is_empty(body: bytes) -> None:
    class Empty:
        def get(self, path: str, **query: object) -> bytes:
            return body

    assert list(fetch_ticks(Empty(), "A", DAY)) == []  # type: ignore[arg-type]


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(before)


def test_the_key_is_in_no_log_and_no_error(logged: io.StringIO, pauses: Pauses) -> None:
    told = []
    cases: list[dict[str, Any]] = [
        {},
        {"premium": False},
        {"statuses": (0,) * 9},
        {"statuses": (500,) * 9},
        {"statuses": (302,)},
    ]
    for faults in cases:
        with exchange(TRADES, **faults) as server, rest(server, pauses) as asked:
            told.append(repr(asked))
            try:
                fetched(asked)
            except (PlanForbidden, ServerUnavailable, InvalidResponse) as error:
                told += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    assert "stock/tick" in logged.getvalue()
    assert gaps.KEY not in logged.getvalue() + "".join(told)
