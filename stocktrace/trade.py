"""A trade and its columns; CSV, schema and Parquet take the order of columns from here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from stocktrace.errors import TickerError

#: The columns of a recorded trade, in their order.
COLUMNS = ("symbol", "ts_event", "ts_recv", "price", "volume", "conditions")

# The characters of Finnhub's symbols (FINNHUB.md, "Symbols"); a space is only valid inside.
_TICKER = re.compile(r"[A-Za-z0-9.:_\-/^](?:[A-Za-z0-9.:_\-/^ ]*[A-Za-z0-9.:_\-/^])?")
_TICKERS = re.compile(f"{_TICKER.pattern}(?:,{_TICKER.pattern})*")
# A ticker is part of a folder name, percent-encoded (three bytes for each character except letters,
# digits and . _ - ^). File systems allow 255 bytes, of which a reserve stays free.
TICKER_BYTES = 240


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade as Finnhub sends it; the member names are the protocol's, for speed of decoding.

    ``s`` symbol · ``p`` price · ``t`` event time, UNIX ms · ``v`` volume (0: a price update) ·
    ``c`` condition codes as received, or ``None``.
    """

    s: str
    p: float
    t: int
    v: float
    c: tuple[str, ...] | None = None


def is_ticker(symbol: str) -> bool:
    """Return True if ``symbol`` can be subscribed to and stored."""
    return _TICKER.fullmatch(symbol) is not None and (
        3 * len(symbol) <= TICKER_BYTES or len(quote(symbol, safe="^")) <= TICKER_BYTES
    )


def parse_tickers(words: str | Iterable[str]) -> tuple[str, ...]:
    """Return the tickers in ``words``, separated by commas too, each once, in their order.

    Raises:
        TickerError: a word is not a ticker, or no word is left.
    """
    text = words if isinstance(words, str) else ",".join(words)
    tickers = dict.fromkeys(map(str.strip, text.split(",")))
    tickers.pop("", None)
    if not tickers:
        raise TickerError("Name at least one ticker, such as AAPL or BINANCE:BTCUSDT.")
    # One search in the text of thousands of tickers costs a fifth of one in each.
    if 3 * max(map(len, tickers)) <= TICKER_BYTES and _TICKERS.fullmatch(",".join(tickers)):
        return tuple(tickers)
    for ticker in tickers:
        if not is_ticker(ticker):
            raise TickerError(
                f"{ticker!r} is not a ticker: use letters, digits and . : _ - / ^ "
                "(at most about 200), as in AAPL or BINANCE:BTCUSDT."
            )
    return tuple(tickers)
