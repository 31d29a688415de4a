"""Market hours of scheduled captures: a run outside the hours of its market is skipped.

The market in the schedule decides, not the tickers: a coin in a list of stocks must not change the
days on which the list is recorded, and ``until close`` has no meaning on a holiday.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from stocktrace.calendar import (
    NEW_YORK,
    Market,
    market_of,
    next_session,
    session_close,
    us_extended_session,
    us_regular_session,
)
from stocktrace.errors import MarketClosed

#: The hours in which a scheduled capture runs.
MarketHours = Literal["us", "us-extended", "always"]

_SESSIONS = {"us": us_regular_session, "us-extended": us_extended_session}
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
    session_of = _SESSIONS[hours]
    try:
        closes = session_close(now, session_of)
    except MarketClosed as closed:
        raise MarketClosed(f"{closed}{_other_markets(tickers)}") from None
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


def _other_markets(tickers: Iterable[str]) -> str:
    """Name the tickers that trade anyway, and how to record them."""
    coins = [ticker for ticker in tickers if market_of(ticker) is Market.CRYPTO]
    if not coins:
        return ""
    return f" {', '.join(coins[:3])} can be recorded anyway, with market always."
