"""Finnhub's REST side (FINNHUB.md, "REST"): ticks, market status, holidays, and its refusals."""

from __future__ import annotations

import http
from collections import deque
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

from stocktrace.calendar import NEW_YORK, us_extended_session, us_regular_session
from stocktrace.simulator.settings import RestSettings
from stocktrace.simulator.ticks import TickHistory

#: What the path of a request to REST begins with.
PREFIX = "/api/v1/"
_ERRORS = {
    401: "Invalid API key.",
    403: "You don't have access to this resource.",
    404: "Data not found.",
    422: "Wrong parameters.",
    429: "API limit reached. Please try again later. Remaining Limit: 0",
}
_MOST = 25_000


class RestApi:
    """Answers requests; ``requests`` counts them. Belongs to the exchange's thread."""

    def __init__(self, settings: RestSettings, key: str, ticks: TickHistory) -> None:
        self.requests = 0
        self._settings = settings
        self._key = key
        self._ticks = ticks
        self._statuses = deque(settings.statuses)
        self._minute: deque[float] = deque()

    def answer(self, path: str, headers: Mapping[str, str], now: float) -> Response | None:
        """The answer to a request at ``now`` (monotonic seconds); ``None``: the connection ends."""
        self.requests += 1
        status = self._statuses.popleft() if self._statuses else 200
        if status == 0:
            return None
        if status != 200:
            return _refusal(status, self._settings.retry_after)
        return self._served(path, headers, now)

    def _served(self, path: str, headers: Mapping[str, str], now: float) -> Response:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if headers.get("X-Finnhub-Token", query.get("token")) != self._key:
            return _refusal(401)
        left = self._left(now)
        if left < 0:
            return _refusal(429, self._settings.retry_after)
        limits = {
            "X-Ratelimit-Limit": str(self._settings.per_minute),
            "X-Ratelimit-Remaining": str(left),
        }
        match parts.path.removeprefix(PREFIX):
            case "stock/tick":
                return self._tick(query, limits)
            case "stock/market-status":
                return _response(200, _status(datetime.now(UTC)), limits)
            case "stock/market-holiday":
                return _response(200, _holidays(datetime.now(NEW_YORK).year), limits)
        return _refusal(404)

    def _left(self, now: float) -> int:
        """How many more requests this minute allows; below 0: not even this one."""
        while self._minute and now - self._minute[0] >= 60.0:
            self._minute.popleft()
        if len(self._minute) >= self._settings.per_minute:
            return -1
        self._minute.append(now)
        return self._settings.per_minute - len(self._minute)

    def _tick(self, query: dict[str, str], limits: dict[str, str]) -> Response:
        if not self._settings.premium:
            return _refusal(403)
        try:
            day = date.fromisoformat(query["date"])
            limit, skip = int(query.get("limit", _MOST)), int(query.get("skip", 0))
            symbol = query["symbol"]
        except (KeyError, ValueError):
            return _refusal(422)
        if not 0 < limit <= _MOST or skip < 0:
            return _refusal(422)
        page = self._ticks.page(symbol, day, limit, skip)
        return _refusal(404) if page is None else _response(200, page, limits)


def _status(now: datetime) -> dict[str, Any]:
    day = now.astimezone(NEW_YORK).date()
    regular, extended = us_regular_session(day), us_extended_session(day)
    session = None
    if regular is not None and regular.opens <= now < regular.closes:
        session = "regular"
    elif extended is not None and extended.opens <= now < extended.closes:
        session = "pre-market" if regular is None or now < regular.opens else "post-market"
    closed = regular is None and day.weekday() < 5
    return {
        "exchange": "US",
        "holiday": "Holiday" if closed else None,
        "isOpen": session == "regular",
        "session": session,
        "t": int(now.timestamp()),
        "timezone": NEW_YORK.key,
    }


def _holidays(year: int) -> dict[str, Any]:
    """Weekdays without a session, and half days."""
    first = date(year, 1, 1)
    days = [first + timedelta(days=number) for number in range(366)]
    found = []
    for day in days:
        session = us_regular_session(day)
        if session is None and day.weekday() < 5:
            hours = ""
        elif session is not None and (closes := session.closes.astimezone(NEW_YORK)).hour < 16:
            hours = f"09:30-{closes:%H:%M}"
        else:
            continue
        found.append({"eventName": "Holiday", "atDate": day.isoformat(), "tradingHour": hours})
    return {"data": found, "exchange": "US", "timezone": NEW_YORK.key}


def _refusal(status: int, retry_after: int | None = None) -> Response:
    """An error; those of a gateway in front are no JSON."""
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    if status in _ERRORS:
        return _response(status, {"error": _ERRORS[status]}, headers)
    return _response(status, b"<html>upstream request timeout</html>", headers)


def _response(status: int, body: object, more: Mapping[str, str]) -> Response:
    """What is no bytes yet goes as JSON."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    kind = "text/html" if isinstance(body, bytes) else "application/json; charset=utf-8"
    headers = {"Connection": "close", "Content-Type": kind, "Content-Length": str(len(raw))}
    return Response(status, phrase(status), Headers({**headers, **more}), raw)


def phrase(status: int) -> str:
    """The words for a status, which need not be one that HTTP knows (524)."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
