"""When a ticker's market is open: New York's calendar for US stocks, always for crypto.

``exchange_calendars`` knows holidays, half days and daylight saving; it is loaded on first use. The
market follows from the Finnhub symbol alone: that of foreign stocks (``AC.TO``) and indices is
unknown, and they are never reported as silent.
"""

from __future__ import annotations

import enum
import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from stocktrace.errors import MarketClosed

if TYPE_CHECKING:
    import pandas as pd

NEW_YORK = ZoneInfo("America/New_York")
_CALENDAR = "XNYS"
_LATE_SESSION = timedelta(hours=4)
_CRYPTO = ("BINANCE", "COINBASE", "KRAKEN", "BITFINEX", "BITSTAMP", "GEMINI", "HUOBI", "OKEX",
           "KUCOIN", "POLONIEX", "HITBTC", "ZB", "BITTREX")  # fmt: skip
_FOREX = ("OANDA", "FXCM", "FHFX", "FOREX.COM", "IC MARKETS", "FXPIG", "PEPPERSTONE", "ICM")
# One letter after the point is a class of a US stock (BRK.B), two or more are a venue (AC.TO).
_US_STOCK = re.compile(r"[A-Z]{1,5}(?:[.\-][A-Z])?")


class Market(enum.Enum):
    """Where a ticker trades, according to its symbol."""

    US = "US stocks"
    CRYPTO = "crypto"
    FOREX = "forex"
    UNKNOWN = "unknown"


def market_of(ticker: str) -> Market:
    """Return the market of a Finnhub symbol (FINNHUB.md, "Symbols")."""
    venue, colon, _ = ticker.rpartition(":")
    if colon:
        if venue.upper() in _CRYPTO:
            return Market.CRYPTO
        return Market.FOREX if venue.upper() in _FOREX else Market.UNKNOWN
    return Market.US if _US_STOCK.fullmatch(ticker) else Market.UNKNOWN


@dataclass(frozen=True, slots=True)
class MarketSession:
    """One regular session of the US market (UTC); a half day closes at 13:00 New York."""

    opens: datetime
    closes: datetime


#: Returns the open hours of a New York date, or ``None`` if the market is closed.
SessionOf = Callable[[date], MarketSession | None]


@functools.cache  # a lookup in the calendar's table takes 0.3 ms
def us_regular_session(day: date) -> MarketSession | None:
    """Return the regular session of a New York date, or ``None`` on a weekend or holiday."""
    schedule = _schedule(day.year)
    try:
        row = schedule.loc[day.isoformat()]
    except KeyError:
        return None
    return MarketSession(row["open"].to_pydatetime(), row["close"].to_pydatetime())


@functools.cache
def us_extended_session(day: date) -> MarketSession | None:
    """Return the hours of a New York date including pre-market and after-hours trading.

    They last from 4:00 until 20:00; on a half day until four hours after the early close.
    """
    regular = us_regular_session(day)
    if regular is None:
        return None
    opens = datetime.combine(day, datetime.min.time(), NEW_YORK).replace(hour=4)
    return MarketSession(opens.astimezone(UTC), regular.closes + _LATE_SESSION)


def session_close(now: datetime, session_of: SessionOf = us_regular_session) -> datetime:
    """Return when today's US session closes; ``now`` is aware.

    Raises:
        MarketClosed: today has no session, or it has closed; the message names the next one.
    """
    session = session_of(now.astimezone(NEW_YORK).date())
    if session is not None and now < session.closes:
        return session.closes
    state = "has closed" if session is not None else "is closed today"
    opens = next_session(now, session_of).opens.astimezone(NEW_YORK)
    raise MarketClosed(
        f"The US market {state}; its next session opens {opens:%a %Y-%m-%d %H:%M %Z}."
    )


def next_session(now: datetime, session_of: SessionOf = us_regular_session) -> MarketSession:
    """Return the first US session that opens after ``now``."""
    day = now.astimezone(NEW_YORK).date()
    while True:  # at most four days in a row have no session
        session = session_of(day)
        if session is not None and session.opens > now:
            return session
        day += timedelta(days=1)


def open_seconds(market: Market, start: datetime, end: datetime) -> float:
    """Return how long a market was open between two times; 0 for an unknown market.

    For US stocks only regular sessions count: outside them, many do not trade for long periods.
    """
    if market is Market.CRYPTO:
        return max(0.0, (end - start).total_seconds())
    if market is Market.UNKNOWN or end <= start:
        return 0.0
    seconds = 0.0
    day = start.astimezone(NEW_YORK).date() - timedelta(days=1)
    while day <= end.astimezone(NEW_YORK).date():
        session = us_regular_session(day) if market is Market.US else _forex_day(day)
        if session is not None:
            overlap = min(end, session.closes) - max(start, session.opens)
            seconds += max(0.0, overlap.total_seconds())
        day += timedelta(days=1)
    return seconds


def _forex_day(day: date) -> MarketSession | None:
    """Currencies trade from Sunday 17:00 to Friday 17:00 New York; a day begins at 17:00."""
    if day.weekday() in (4, 5):  # no trading day begins on a Friday or Saturday
        return None
    opens = datetime.combine(day, datetime.min.time(), NEW_YORK).replace(hour=17)
    closes = (opens + timedelta(days=1)).replace(tzinfo=NEW_YORK)
    return MarketSession(opens.astimezone(UTC), closes.astimezone(UTC))


@functools.cache
def _schedule(year: int) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 4.13 calls a function that pandas 3.1 deprecates
        import exchange_calendars

        calendar = exchange_calendars.get_calendar(
            _CALENDAR, start=f"{year}-01-01", end=f"{year}-12-31"
        )
        schedule: pd.DataFrame = calendar.schedule
    return schedule
