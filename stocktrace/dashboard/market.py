"""Whether trades are to be expected at all: of US stocks only while they trade."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from stocktrace.calendar import NEW_YORK, Market, market_of, next_session, us_extended


def closed(tickers: Iterable[str], now: datetime) -> str | None:
    """A sentence if the market of all ``tickers`` is closed at ``now`` (aware)."""
    if any(market_of(ticker) is not Market.US for ticker in tickers):
        return None
    today = us_extended(now.astimezone(NEW_YORK).date())
    if today is not None and today.opens <= now < today.closes:
        return None
    opens = next_session(now).opens.astimezone(NEW_YORK)
    return f"the next US session opens {opens:%a %H:%M} New York"
