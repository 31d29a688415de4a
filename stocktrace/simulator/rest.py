"""Finnhub's REST side (FINNHUB.md, "REST"): ticks, market status, holidays, and its errors.

The ticks are what was played over the WebSocket, to any client or none, by ticker and New York
date. ``RestSettings`` says how they differ from that.
"""

from __future__ import annotations

import http
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

from stocktrace.calendar import NEW_YORK, us_extended_session, us_regular_session
from stocktrace.simulator.protocol import DECODE_ERRORS
from stocktrace.simulator.settings import RestSettings
from stocktrace.units import MS_PER_SECOND

#: The path of every REST request begins with it.
PREFIX = "/api/v1/"
_ERRORS = {
    401: "Invalid API key.",
    403: "You don't have access to this resource.",
    404: "Data not found.",
    422: "Wrong parameters.",
    429: "API limit reached. Please try again later. Remaining Limit: 0",
}
_MAX_LIMIT = 25_000
# The price of a tick that the live feed never sent differs by a cent: another venue's.
_EXTRA = 0.01


class _TickRow(msgspec.Struct, gc=False):
    s: str
    p: float
    t: int
    v: float
    c: tuple[str, ...] | None = None


class _TradeFrame(msgspec.Struct):
    type: str
    data: tuple[_TickRow, ...] = ()


_decode_trades = msgspec.json.Decoder(_TradeFrame).decode
_PADDING = _TickRow("", 0.0, 0, 0.0, ())


class RestApi:
    """Answers requests and counts them. Only the simulator's thread may use it.

    ``history`` are frames that were played before.
    """

    def __init__(self, settings: RestSettings, key: str, history: Iterable[bytes]) -> None:
        self.requests = 0
        self._settings = settings
        self._key = key
        # Frames are decoded on the first request: most are never asked for.
        self._undecoded = list(history)
        self._days: dict[tuple[str, date], list[_TickRow]] = defaultdict(list)
        self._statuses = deque(settings.statuses)
        self._minute: deque[float] = deque()

    def add(self, frames: Iterable[bytes]) -> None:
        """Add frames that are played now."""
        self._undecoded += frames

    def answer(self, path: str, headers: Mapping[str, str], now: float) -> Response | None:
        """Answer a request at ``now`` (monotonic seconds); ``None``: the connection ends."""
        self.requests += 1
        status = self._statuses.popleft() if self._statuses else 200
        if status == 0:
            return None
        if status != 200:
            return _error_response(status, self._settings.retry_after)
        return self._route(path, headers, now)

    def _route(self, path: str, headers: Mapping[str, str], now: float) -> Response:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if headers.get("X-Finnhub-Token", query.get("token")) != self._key:
            return _error_response(401)
        left = self._use_allowance(now)
        if left < 0:
            return _error_response(429, self._settings.retry_after)
        limits = {
            "X-Ratelimit-Limit": str(self._settings.per_minute),
            "X-Ratelimit-Remaining": str(left),
        }
        answer: dict[str, Any] | int = 404
        match parts.path.removeprefix(PREFIX):
            case "stock/tick":
                answer = self._ticks(query)
            case "stock/market-status":
                answer = _market_status(datetime.now(UTC))
            case "stock/market-holiday":
                answer = _market_holidays(datetime.now(NEW_YORK).year)
        if isinstance(answer, int):
            return _error_response(answer)
        return _json_response(200, answer, limits)

    def _use_allowance(self, now: float) -> int:
        """Return how many more requests this minute allows; -1: this one is one too many."""
        while self._minute and now - self._minute[0] >= 60.0:
            self._minute.popleft()
        if len(self._minute) >= self._settings.per_minute:
            return -1
        self._minute.append(now)
        return self._settings.per_minute - len(self._minute)

    def _ticks(self, query: dict[str, str]) -> dict[str, Any] | int:
        """Return the answer of ``/stock/tick``, or the status of a refusal."""
        settings = self._settings
        if not settings.premium:
            return 403
        try:
            day = date.fromisoformat(query["date"])
            limit, skip = int(query.get("limit", _MAX_LIMIT)), int(query.get("skip", 0))
            symbol = query["symbol"]
        except (KeyError, ValueError):
            return 422
        if not 0 < limit <= _MAX_LIMIT or skip < 0:
            return 422
        rows = self._rows_of_day(symbol, day)
        if rows is None:
            return 404
        limit = min(limit, settings.page_limit)
        page = rows[skip : skip + limit]
        if not page and settings.endless:
            page = rows[-limit:]
        if settings.padding:
            page = [*page, *[_PADDING] * (limit - len(page))]
        return {
            "s": symbol,
            "skip": skip,
            "count": len(page),
            "total": len(rows),
            "p": [row.p for row in page],
            "v": [row.v for row in page],
            "t": [row.t for row in page],
            "x": ["D"] * len(page),
            "c": [list(row.c or ()) for row in page],
        }

    def _rows_of_day(self, symbol: str, day: date) -> Sequence[_TickRow] | None:
        self._decode()
        rows = self._days.get((symbol, day))
        if rows is None or day.isoformat() in self._settings.not_loaded:
            return None
        rows = sorted(rows, key=lambda row: row.t)
        if period := self._settings.missing:
            rows = [row for number, row in enumerate(rows, 1) if number % period]
        if period := self._settings.extra:
            extra = [
                msgspec.structs.replace(row, p=round(row.p + _EXTRA, 4)) for row in rows[::period]
            ]
            rows = sorted(rows + extra, key=lambda row: row.t)
        return rows

    def _decode(self) -> None:
        undecoded, self._undecoded = self._undecoded, []
        for frame in undecoded:
            try:
                rows = _decode_trades(frame).data
            except DECODE_ERRORS:
                continue  # not a frame of trades
            for row in rows:
                time = datetime.fromtimestamp(row.t / MS_PER_SECOND, NEW_YORK)
                self._days[row.s, time.date()].append(row)


def _market_status(now: datetime) -> dict[str, Any]:
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


def _market_holidays(year: int) -> dict[str, Any]:
    """List weekdays without a session, and half days."""
    first = date(year, 1, 1)
    holidays = []
    for day in (first + timedelta(days=number) for number in range(366)):
        session = us_regular_session(day)
        if session is None and day.weekday() < 5:
            hours = ""
        elif session is not None and (closes := session.closes.astimezone(NEW_YORK)).hour < 16:
            hours = f"09:30-{closes:%H:%M}"
        else:
            continue
        holidays.append({"eventName": "Holiday", "atDate": day.isoformat(), "tradingHour": hours})
    return {"data": holidays, "exchange": "US", "timezone": NEW_YORK.key}


def _error_response(status: int, retry_after: int | None = None) -> Response:
    """Return an error; those of a gateway in front of Finnhub are not JSON."""
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    if status in _ERRORS:
        return _json_response(status, {"error": _ERRORS[status]}, headers)
    return make_response(status, b"<html>upstream request timeout</html>", "text/html", headers)


def _json_response(status: int, body: object, more_headers: Mapping[str, str]) -> Response:
    raw = msgspec.json.encode(body)
    return make_response(status, raw, "application/json; charset=utf-8", more_headers)


def make_response(
    status: int, body: bytes, kind: str, more_headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """Return a response with a body of the media type ``kind``."""
    headers = {"Connection": "close", "Content-Type": kind, "Content-Length": str(len(body))}
    return Response(status, reason_phrase(status), Headers({**headers, **more_headers}), body)


def reason_phrase(status: int) -> str:
    """Return the words for a status, also for one that HTTP does not know (524)."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
