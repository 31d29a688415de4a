"""Flows that fill gaps and reconcile days with Finnhub's REST API; each can be run again."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.fields import Date
from stocktrace.backfill.fill import fill_gaps
from stocktrace.backfill.plan import describe_postponed, plan_fills
from stocktrace.backfill.reconcile import Completeness, last_trading_day, reconcile_day
from stocktrace.errors import StocktraceError
from stocktrace.feed.rest import RestClient
from stocktrace.query.criteria import parse_day
from stocktrace.query.gap_fills import GapFill
from stocktrace.settings import Settings
from stocktrace.show.markdown import MAX_ROWS
from stocktrace.store.layout import Layout
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers

BACKFILL_ARTIFACT = "stocktrace-backfill"
COMPLETENESS_ARTIFACT = "stocktrace-completeness"

Share = Annotated[float, Field(ge=0, le=1)]


@flow(name="stocktrace-backfill", persist_result=False)
def backfill(data_dir: str | None = None, url: str | None = None) -> State[Any]:
    """Fill gaps of past sessions with ticks from Finnhub's REST API, where it has them.

    Args:
        data_dir: The folder for all recorded data. Defaults to STOCKTRACE_DATA_DIR, or data.
        url: The WebSocket's address, whose host is asked. Defaults to STOCKTRACE_URL, or Finnhub's.

    Returns:
        How many gaps were repaired, need no repair, cannot be repaired or are open; and how many
        trades were added.
    """
    fills, failure, postponed = fetch_gaps({"data_dir": data_dir, "url": url})
    if fills:
        rows = [msgspec.to_builtins(fill) for fill in fills[:MAX_ROWS]]
        create_table_artifact(rows, key=BACKFILL_ARTIFACT)
    reasons = [fill.reason for fill in fills if fill.state == "open"]
    if reasons and not failure:
        failure = f"not repaired: {count_of(len(reasons), 'gap')}, the first: {reasons[0]}"
    if failure:
        return Failed(message=failure)
    counts = dict(Counter(fill.state for fill in fills))
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    trades = sum(fill.rows for fill in fills)
    repaired = "; ".join([states] * bool(states) + postponed) or "nothing to repair"
    text = f"{repaired}; {count_of(trades, 'trade')}."
    return Completed(message=text, data={**counts, "trades": trades})


@task(name="backfill", persist_result=False)
def fetch_gaps(settings: dict[str, str | None]) -> tuple[list[GapFill], str, list[str]]:
    """Fill gaps; return the fills so far, why it stopped early, and what is postponed."""
    fills: list[GapFill] = []
    try:
        loaded = Settings.load(**settings)
        layout = Layout.from_settings(loaded)
        with RestClient.open(loaded) as rest:
            fills.extend(fill_gaps(layout, rest))
        return fills, "", describe_postponed(plan_fills(layout))
    except StocktraceError as error:
        return fills, str(error), []


@flow(name="stocktrace-reconcile", persist_result=False)
def reconcile(
    date: Date | None = None,
    tickers: list[str] | None = None,
    min_share: Share = 0.99,
    data_dir: str | None = None,
    url: str | None = None,
) -> State[Any]:
    """Compare a day's published trades with the ticks that Finnhub's REST API has of it.

    Args:
        date: A New York date. Defaults to the last one that has ended.
        tickers: US stocks. Defaults to those that were captured that day.
        min_share: The share of ticks that makes a day complete.
        data_dir: The folder for all recorded data. Defaults to STOCKTRACE_DATA_DIR, or data.
        url: The WebSocket's address, whose host is asked. Defaults to STOCKTRACE_URL, or Finnhub's.

    Returns:
        How many tickers are complete.
    """
    rows, failure = compare_day({"data_dir": data_dir, "url": url}, date, tickers or [], min_share)
    if rows:
        table = [msgspec.to_builtins(row) for row in rows[:MAX_ROWS]]
        create_table_artifact(table, key=COMPLETENESS_ARTIFACT)
    incomplete = [f"{row.symbol}: {row.reason}" for row in rows if row.state != "complete"]
    tickers_compared = count_of(len(rows), "ticker")
    if incomplete and not failure:
        failure = f"not complete: {len(incomplete)} of {tickers_compared}, first {incomplete[0]}"
    if failure:
        return Failed(message=failure)
    return Completed(message=f"{tickers_compared} complete.", data={"complete": len(rows)})


@task(name="reconcile", persist_result=False)
def compare_day(
    settings: dict[str, str | None], date: str | None, tickers: list[str], min_share: float
) -> tuple[list[Completeness], str]:
    """Compare a day; return the rows so far, and why it stopped early."""
    rows: list[Completeness] = []
    try:
        loaded = Settings.load(**settings)
        layout, day = Layout.from_settings(loaded), parse_day(date) or last_trading_day()
        symbols = parse_tickers(tickers) if tickers else ()
        with RestClient.open(loaded) as rest:
            rows.extend(reconcile_day(layout, rest, day, symbols, min_share))
    except StocktraceError as error:
        return rows, str(error)
    return rows, ""
