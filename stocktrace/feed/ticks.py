"""The ticks of a ticker's day, as REST tells them (FINNHUB.md, "REST", ``/stock/tick``).

They come in pages until as many came as were announced. Rows of zeros behind a page's are padding
(#295); what is told behind the announced number is told again (#296). A day of which less comes
than was announced is none: nothing says what is missing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import msgspec

from stocktrace.errors import BadAnswer
from stocktrace.feed.rest import Rest

#: Rows a page.
LIMIT = 25_000
# Ten times the busiest day of any US stock.
_MOST = 50_000_000


@dataclass(frozen=True, slots=True)
class Ticks:
    """Some ticks of one ticker, in the server's order; columns of one length.

    ``t`` UNIX ms · ``p`` price · ``v`` volume · ``c`` condition codes, parted by a space.
    """

    t: list[int]
    p: list[float]
    v: list[float]
    c: list[str]


class _Page(msgspec.Struct):
    total: int
    t: list[int] | None
    p: list[float] | None
    v: list[float] | None
    c: list[list[str] | None] | None = None


_decode = msgspec.json.Decoder(_Page).decode


def ticks_of(rest: Rest, ticker: str, day: date) -> Iterator[Ticks]:
    """The ticks of a ticker's New York trading day, extended hours included, page by page.

    Raises:
        BadAnswer: they cannot be read, are not all there, or change meanwhile; what was given
            before is worth nothing.
        FeedError: see ``Rest.get``.
    """
    told, place, real, reached = None, 0, 0, 0
    while told is None or place < told:
        body = rest.get("stock/tick", symbol=ticker, date=day.isoformat(), limit=LIMIT, skip=place)
        page = _page(body, ticker, day)
        if told is not None and page.total != told:
            raise BadAnswer(f"The ticks of {ticker} of {day} change while they are read.")
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
        raise BadAnswer(f"Of {told:,} ticks of {ticker} of {day} the server gave {real:,}.")


def _page(body: bytes, ticker: str, day: date) -> _Page:
    try:
        page = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadAnswer(f"The ticks of {ticker} of {day} cannot be read: {error}.") from error
    lengths = {len(column or ()) for column in (page.t, page.p, page.v)}
    if page.c is not None:
        lengths.add(len(page.c))
    if len(lengths) > 1 or not 0 <= page.total <= _MOST:
        raise BadAnswer(f"The ticks of {ticker} of {day} cannot be read: their columns differ.")
    return page


def _ticks(page: _Page, rows: list[int]) -> Ticks:
    times, prices, volumes = page.t or [], page.p or [], page.v or []
    codes = page.c or [None] * len(times)
    return Ticks(
        [times[row] for row in rows],
        [prices[row] for row in rows],
        [volumes[row] for row in rows],
        [" ".join(codes[row] or ()) for row in rows],
    )
