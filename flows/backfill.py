"""What Finnhub's REST has of past days, as Prefect flows: gaps are repaired, days are reconciled.

Both can be started again at any time; the key is the worker's, never a parameter.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.fields import Date
from flows.markdown import ROWS
from stocktrace.backfill.completeness import Completeness
from stocktrace.backfill.fill import fill_gaps
from stocktrace.backfill.plan import plan_fills, postpone
from stocktrace.backfill.reconcile import last_trading_day
from stocktrace.backfill.reconcile import reconcile_day as compare
from stocktrace.errors import StocktraceError
from stocktrace.feed.rest import RestClient, rest_url
from stocktrace.query.criteria import parse_day
from stocktrace.settings import Settings
from stocktrace.store.gap_fills import GapFill
from stocktrace.store.layout import Layout
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers

REPAIRS = "stocktrace-repairs"
COMPLETENESS = "stocktrace-completeness"

Share = Annotated[float, Field(ge=0, le=1)]


@flow(name="stocktrace-repair", persist_result=False)
def backfill(data_dir: str | None = None, url: str | None = None) -> State[Any]:
    """Repair gaps of past sessions with ticks from Finnhub's REST, as far as they can be had.

    Args:
        data_dir: The folder of everything that is recorded; else STOCKTRACE_DATA_DIR, else data.
        url: The WebSocket's address, whose host is asked; else STOCKTRACE_URL, else Finnhub's.

    Returns:
        How many gaps were repaired, need none, cannot be, are open; and how many trades came.
    """
    found, failure, later = fetch_gaps({"data_dir": data_dir, "url": url})
    if found:
        create_table_artifact([msgspec.to_builtins(one) for one in found[:ROWS]], key=REPAIRS)
    left = [one.reason for one in found if one.state == "open"]
    if failure or left:
        return Failed(
            message=failure or f"not repaired: {count_of(len(left), 'gap')}, the first: {left[0]}"
        )
    counts = dict(Counter(one.state for one in found))
    states = [f"{count} {state}" for state, count in counts.items()]
    told = "; ".join([", ".join(states)] * bool(states) + later) or "nothing to repair"
    trades = sum(one.rows for one in found)
    return Completed(
        message=f"{told}; {count_of(trades, 'trade')}.", data={**counts, "trades": trades}
    )


@task(name="repair", cache_policy=NO_CACHE, persist_result=False)
def fetch_gaps(asked: dict[str, str | None]) -> tuple[list[GapFill], str, list[str]]:
    """Repair, what kept it from going on, and what is put off."""
    found: list[GapFill] = []
    try:
        settings = Settings.load(**asked)
        layout = Layout.from_settings(settings)
        with RestClient(rest_url(settings.url), settings.key()) as rest:
            found.extend(fill_gaps(layout, rest))
        return found, "", postpone(plan_fills(layout))
    except StocktraceError as error:
        return found, str(error), []


@flow(name="stocktrace-reconcile", persist_result=False)
def reconcile(
    date: Date | None = None,
    tickers: list[str] | None = None,
    min_share: Share = 0.99,
    data_dir: str | None = None,
    url: str | None = None,
) -> State[Any]:
    """Compare a day's published trades with the ticks that Finnhub's REST has of it.

    Args:
        date: A New York date; else the last that is over.
        tickers: US stocks; else those that were captured that day.
        min_share: The share that makes a day complete.
        data_dir: The folder of everything that is recorded; else STOCKTRACE_DATA_DIR, else data.
        url: The WebSocket's address, whose host is asked; else STOCKTRACE_URL, else Finnhub's.

    Returns:
        How many tickers are complete.
    """
    found, failure = fetch_day({"data_dir": data_dir, "url": url}, date, tickers or [], min_share)
    if found:
        rows = [msgspec.to_builtins(one) for one in found[:ROWS]]
        create_table_artifact(rows, key=COMPLETENESS)
    wrong = [f"{one.symbol}: {one.reason}" for one in found if one.state != "complete"]
    if failure or wrong:
        text = (
            f"not complete: {len(wrong)} of {count_of(len(found), 'ticker')}, "
            f"first {', '.join(wrong[:1])}"
        )
        return Failed(message=failure or text)
    return Completed(
        message=f"{count_of(len(found), 'ticker')} complete.", data={"complete": len(found)}
    )


@task(name="reconcile", cache_policy=NO_CACHE, persist_result=False)
def fetch_day(
    asked: dict[str, str | None], date: str | None, tickers: list[str], min_share: float
) -> tuple[list[Completeness], str]:
    """Compare, and what kept it from going on."""
    found: list[Completeness] = []
    try:
        settings = Settings.load(**asked)
        day, wanted = (
            parse_day(date) or last_trading_day(),
            parse_tickers(tickers) if tickers else (),
        )
        with RestClient(rest_url(settings.url), settings.key()) as rest:
            found.extend(compare(Layout.from_settings(settings), rest, day, wanted, min_share))
    except StocktraceError as error:
        return found, str(error)
    return found, ""
