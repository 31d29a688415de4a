"""Whether a capture that was started by a schedule is still worth it.

The market that the schedule names decides, and not the tickers: a coin in a list of stocks must not
change the days on which the list is recorded, and ``until close`` has no meaning on a holiday.
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

#: The hours that a capture keeps.
MarketHours = Literal["us", "us-extended", "always"]

_SESSIONS = {"us": us_regular_session, "us-extended": us_extended_session}
# A run takes about 10 s to start, and a window of less than a minute tells nobody anything.
MIN_REMAINING = timedelta(minutes=1)
# Started that long before the bell, a run of an earlier day is not yet needed for this one.
EARLY_START_TOLERANCE = timedelta(minutes=30)

# Prefect starts a run up to half a second before its time, and the clock of its server may be ahead
# of a worker's by some seconds.
AHEAD = timedelta(minutes=1)


def asked_at(now: datetime, scheduled: datetime | None) -> datetime:
    """The moment that ``tomorrow``, ``close`` and the like are about in a run that starts ``now``.

    That is its scheduled start while that is still to come, by ``AHEAD`` at most: a run of midnight
    that starts half a second early is about the day that begins. A run that is late or that nobody
    scheduled is about the present.
    """
    return scheduled if scheduled is not None and now < scheduled <= now + AHEAD else now


def check_schedule(
    hours: MarketHours, tickers: Iterable[str], now: datetime, scheduled: datetime | None = None
) -> None:
    """Return if a capture is worth starting ``now`` (``asked_at``); both times are aware.

    A run whose own day is over (``scheduled``; after a worker's downtime the oldest of the missed
    runs starts and the newer ones are cancelled) stands in for today's while the market is open.

    Raises:
        MarketClosed: it is not worth it; the sentence says why, and when the market opens next.
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
    if session is None or scheduled is None or now >= session.opens - EARLY_START_TOLERANCE:
        return
    due = scheduled.astimezone(NEW_YORK)
    if due.date() < now.astimezone(NEW_YORK).date():
        opens = next_session(now, session_of).opens.astimezone(NEW_YORK)
        raise MarketClosed(
            f"This run was due on {due:%a %Y-%m-%d %H:%M %Z}, and that day is over; "
            f"the next session opens {opens:%a %Y-%m-%d %H:%M %Z}."
        )


def _other_markets(tickers: Iterable[str]) -> str:
    """What trades all the same, and how to have it."""
    coins = [ticker for ticker in tickers if market_of(ticker) is Market.CRYPTO]
    if not coins:
        return ""
    return f" {', '.join(coins[:3])} can be recorded all the same, with market always."
