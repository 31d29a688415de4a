"""When a ticker's market is open: New York's calendar for US stocks, always for crypto.

``exchange_calendars`` knows holidays, half days and daylight saving; it is loaded on first use. The
market follows from the Finnhub symbol alone: that of foreign stocks (``AC.TO``) and indices is
unknown, and they are never reported as silent.

A scheduled capture outside the hours of its market is skipped. The market in its schedule decides,
not the tickers: a coin in a list of stocks must not change the days on which the list is recorded,
and ``until close`` has no meaning on a holiday.
"""

from __future__ import annotations

import enum
import functools
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal
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


# --- scheduled captures ------------------------------------------------------------------------

#: The hours in which a scheduled capture runs.
MarketHours = Literal["us", "us-extended", "always"]

# A run takes about 10 s to start, and a window of less than a minute is useless.
MIN_REMAINING = timedelta(minutes=1)
# A missed run of an earlier day replaces today's only from this long before the open.
REPLACES_FROM = timedelta(minutes=30)
# Prefect starts a run up to half a second before its scheduled start, and the clock of its server
# may be some seconds ahead of a worker's.
MAX_CLOCK_LEAD = timedelta(minutes=1)


def reference_time(now: datetime, scheduled: datetime | None) -> datetime:
    """Return the time to which ``tomorrow``, ``close`` and the like refer in a run that starts now.

    It is the scheduled start if that is at most ``MAX_CLOCK_LEAD`` ahead: a run scheduled for
    midnight that starts half a second early refers to the day that begins. For a run that is late
    or was not scheduled, it is ``now``.
    """
    return scheduled if scheduled is not None and now < scheduled <= now + MAX_CLOCK_LEAD else now


def check_schedule(
    hours: MarketHours, tickers: Iterable[str], now: datetime, scheduled: datetime | None = None
) -> None:
    """Check that a capture should start ``now`` (``reference_time``); both times are aware.

    A run scheduled for an earlier day replaces today's run while the market is open: after a
    worker's downtime, the oldest missed run starts and the newer ones are cancelled.

    Raises:
        MarketClosed: it should not; the message says why, and when the market opens next.
    """
    if hours == "always":
        return
    session_of = us_regular_session if hours == "us" else us_extended_session
    try:
        closes = session_close(now, session_of)
    except MarketClosed as closed:
        coins = [ticker for ticker in tickers if market_of(ticker) is Market.CRYPTO]
        if not coins:
            raise
        names = ", ".join(coins[:3])
        raise MarketClosed(
            f"{closed} {names} can be recorded anyway, with market always."
        ) from None
    if closes - now < MIN_REMAINING:
        raise MarketClosed(
            f"Started too late: the US market closes at {closes.astimezone(NEW_YORK):%H:%M:%S %Z}."
        )
    session = session_of(now.astimezone(NEW_YORK).date())
    if session is None or scheduled is None or now >= session.opens - REPLACES_FROM:
        return
    due = scheduled.astimezone(NEW_YORK)
    if due.date() < now.astimezone(NEW_YORK).date():
        opens = next_session(now, session_of).opens.astimezone(NEW_YORK)
        raise MarketClosed(
            f"This run was due on {due:%a %Y-%m-%d %H:%M %Z}, and that day has ended; "
            f"the next session opens {opens:%a %Y-%m-%d %H:%M %Z}."
        )
