"""A watch-list over the workers of a Prefect work pool: one key each, all into one lake.

    stocktrace-fleet/fleet          this flow: it splits, starts, watches, has taken over
    stocktrace-capture/shard        a capture on a worker, with the key and the disk of its machine

A shard that dies is told by Prefect's automation for dead runs (``flows.automations``, which is
made here if need be). Its tickers go to the shards that run and have room, else to a new run for
the next free worker. What was not heard meanwhile is named in the lake's coverage.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from prefect import flow, get_client, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed
from pydantic import Field

from flows import console
from flows.automations import create_automations, zombie_automation
from flows.capture import capture_seconds
from flows.fields import Duration, LakeUrl, Tickers, Until, Url
from flows.fleet_runs import BAD, FleetRuns
from stocktrace import market_hours
from stocktrace.end_time import CaptureSpan
from stocktrace.errors import LakeError, StocktraceError, UsageError
from stocktrace.live.fleet import SYMBOL_LIMIT, earlier_reports, split_tickers, write_uncovered_gaps
from stocktrace.store.names import new_session
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers

SHARD = "stocktrace-capture/shard"
# A dead run is told after two minutes anyhow; each look is one request a shard.
LOOK_EVERY_S = 5.0
LOST = "its shard was lost"

Deployment = Annotated[str, Field(pattern=r"^[^/]+/[^/]+$", examples=[SHARD])]


def run_name() -> str:
    """``400 tickers, 8 keys · until close``; it must not fail, or the run would."""
    asked = runtime.flow_run.parameters or {}
    tickers, keys = asked.get("tickers") or (), asked.get("keys") or 0
    told = f"{count_of(len(tickers), 'ticker')}, {count_of(int(keys), 'key')}"
    return f"{told} · {capture_seconds(asked)}"


@flow(name="stocktrace-fleet", flow_run_name=run_name, persist_result=False)
def fleet(
    tickers: Tickers,
    keys: Annotated[int, Field(ge=1)],
    lake: LakeUrl,
    duration: Duration | None = None,
    until: Until | None = None,
    limit: Annotated[int, Field(ge=0)] = SYMBOL_LIMIT,
    url: Url | None = None,
    roll_interval: Duration | None = None,
    deployments: Annotated[list[Deployment], Field(min_length=1)] = [SHARD],  # noqa: B006 - a form's
) -> dict[str, Any] | State[Any]:
    """Record many tickers with several API keys, on as many workers.

    Each worker takes one run at a time (prefect worker start --limit 1) and has a FINNHUB_API_KEY
    of its own in its environment. Give one of *duration* and *until*.

    Args:
        tickers: Finnhub symbols, such as AAPL, BINANCE:BTCUSDT or OANDA:EUR_USD.
        keys: How many shards: as many as there are workers, each with its key.
        lake: The store that all of them send to, such as s3://bucket/prefix.
        duration: How long: 30m, 6h30m. Leave it out if there is an end in *until*.
        until: When to end: close, 16:00 America/New_York, or an ISO time.
        limit: How many tickers a key takes; 0: any number.
        url: The address of the trade WebSocket; else that of each worker.
        roll_interval: The length of a window; else that of each worker.
        deployments: What captures: one deployment for all keys, or one for each key.

    Returns:
        The lake, the flow run of each shard with its tickers and state, and the gaps of tickers
        whose shard was lost.
    """
    console.outlast()
    try:
        now = market_hours.asked_at(datetime.now(UTC), runtime.flow_run.scheduled_start_time)
        span = CaptureSpan.of(duration, until, now)
        known = earlier_reports(lake)
        split = split_tickers(parse_tickers(tickers), keys, known, limit)
    except StocktraceError as error:
        return Failed(message=str(error))
    end = span.until or now + timedelta(seconds=span.duration or 0.0)
    asked = {"until": end.isoformat(), "lake": lake, "url": url, "roll_interval": roll_interval}
    members = FleetRuns(asked, end, limit, known)
    with get_client(sync_client=True) as client:
        try:
            _check(client, deployments)
        except UsageError as error:
            return Failed(message=str(error))
        create_automations(client, zombie_automation())
        for number, one in enumerate(split):
            members.add(deployments[number % len(deployments)], one)
        tick = threading.Event()
        while members.check(client):
            tick.wait(LOOK_EVERY_S)
    return result(members, lake)


def _check(client: SyncPrefectClient, deployments: list[str]) -> None:
    for name in dict.fromkeys(deployments):
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise UsageError(
                f"There is no deployment {name}: prefect --no-prompt deploy --all makes those of "
                "prefect.yaml."
            ) from None


def result(members: FleetRuns, lake: str) -> dict[str, Any] | State[Any]:
    """What came of it; failed, if tickers were lost for good or a shard failed at its end."""
    stamp = int(min(datetime.now(UTC), members.end).timestamp() * 1e9)
    gaps = 0
    try:
        if members.lost:
            gaps = write_uncovered_gaps(lake, new_session(stamp), members.lost, stamp, LOST)
    except LakeError as error:
        return Failed(message=f"The gaps of lost shards are not named: {error}")
    if members.remaining:
        return Failed(message=f"Nobody took over {' '.join(sorted(members.remaining))}.")
    failed = [one.name for one in members.all if one.state in BAD and one.shard.tickers]
    if failed:
        return Failed(message=f"{', '.join(failed)} failed: see their flow runs.")
    found = {
        "lake": lake,
        "shards": {
            str(one.run): {"state": one.state.value, "tickers": one.shard.tickers}
            for one in members.all
        },
        "gaps": gaps,
    }
    told = f"{count_of(len(members.all), 'shard')} recorded, {count_of(gaps, 'gap')} between them."
    return Completed(message=told, data=found)
