"""The words for what is recorded: a trade, and the columns it becomes.

Column order stands here once; CSV, schema and Parquet derive from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from stocktrace.errors import TickerError

#: The columns of a recorded trade, in their order everywhere.
COLUMNS = ("symbol", "ts_event", "ts_recv", "price", "volume", "conditions")

# What Finnhub's symbols are made of (FINNHUB.md, "Symbols"), never at the edge a space.
_TICKER = re.compile(r"[A-Za-z0-9.:_\-/^](?:[A-Za-z0-9.:_\-/^ ]*[A-Za-z0-9.:_\-/^])?")
# A ticker is part of a folder's name, percent-encoded (three bytes for each character that is no
# letter, digit or one of . _ - ^), and file systems take 255 bytes; "symbol=" and room stay free.
TICKER_BYTES = 240
# What Hive-aware readers take for "no value" (seen in pyarrow 26 and polars 2.1), however encoded.
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade as Finnhub sends it; the member names are the protocol's, for speed of decoding.

    ``s`` symbol · ``p`` price · ``t`` event time, UNIX ms · ``v`` volume (0: a price update) ·
    ``c`` condition codes as received, or none.
    """

    s: str
    p: float
    t: int
    v: float
    c: tuple[str, ...] | None = None


def is_ticker(symbol: str) -> bool:
    """Whether ``symbol`` is one that can be subscribed to and stored."""
    return (
        _TICKER.fullmatch(symbol) is not None
        and len(quote(symbol, safe="^")) <= TICKER_BYTES
        and symbol != _HIVE_NULL
    )


def parse_tickers(words: str | Iterable[str]) -> tuple[str, ...]:
    """The tickers in ``words``, or in one word, each once, in their order; commas separate too.

    Raises:
        TickerError: a word is no ticker, or there is none at all.
    """
    words = (words,) if isinstance(words, str) else words
    tickers = dict.fromkeys(part.strip() for word in words for part in word.split(","))
    tickers.pop("", None)
    if not tickers:
        raise TickerError("Name at least one ticker, such as AAPL or BINANCE:BTCUSDT.")
    for ticker in tickers:
        if not is_ticker(ticker):
            raise TickerError(
                f"{ticker!r} is no ticker: use letters, digits and . : _ - / ^ "
                "(at most about 200), as in AAPL or BINANCE:BTCUSDT."
            )
    return tuple(tickers)
