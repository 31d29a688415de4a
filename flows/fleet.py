"""A watch-list over the workers of a Prefect work pool: one key each, all into one lake.

    stocktrace-fleet/fleet          this flow: splits, starts, watches and reassigns tickers
    stocktrace-capture/shard        a capture on a worker, with the key and the disk of its machine

Prefect's automation for runs without a heartbeat (``flows.automations``, created here if it is
missing) marks a crashed shard. Its tickers are reassigned to running shards with room, or to a new
run for the next free worker. Time in which a ticker was not captured becomes a gap in the lake's
coverage.
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
from flows.automations import crash_automation, save_automation
from flows.capture import describe_span
from flows.fields import Duration, LakeUrl, Tickers, Until, Url
from flows.fleet_runs import FleetRuns
from stocktrace import market_hours
from stocktrace.end_time import CaptureSpan
from stocktrace.errors import LakeError, StocktraceError, UsageError
from stocktrace.live.fleet import (
    FAILED_STATES,
    SYMBOL_LIMIT,
    Fleet,
    read_rates,
    split_tickers,
    write_uncovered_gaps,
)
from stocktrace.store.names import new_session
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers
from stocktrace.units import epoch_ns

SHARD = "stocktrace-capture/shard"
# A crashed run is marked after two minutes. Each check is one request per shard.
CHECK_INTERVAL_S = 5.0
LOST = "its shard was lost"

Deployment = Annotated[str, Field(pattern=r"^[^/]+/[^/]+$", examples=[SHARD])]


def run_name() -> str:
    """Return ``400 tickers, 8 keys · until close``; an exception would fail the run."""
    parameters = runtime.flow_run.parameters or {}
    tickers, keys = parameters.get("tickers") or (), parameters.get("keys") or 0
    counts = f"{count_of(len(tickers), 'ticker')}, {count_of(int(keys), 'key')}"
    return f"{counts} · {describe_span(parameters)}"


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

    Each worker takes one run at a time (prefect worker start --limit 1) and has its own
    FINNHUB_API_KEY in its environment. Set either *duration* or *until*.

    Args:
        tickers: Finnhub symbols, such as AAPL, BINANCE:BTCUSDT or OANDA:EUR_USD.
        keys: The number of shards: as many as workers with a key.
        lake: The store that all shards send to, such as s3://bucket/prefix.
        duration: How long to record: 30m, 6h30m. Leave it out if *until* is set.
        until: When to end: close, 16:00 America/New_York, or an ISO time.
        limit: The maximum of tickers for a key. 0 means no limit.
        url: The address of the trade WebSocket. Defaults to that of each worker.
        roll_interval: The length of a window. Defaults to that of each worker.
        deployments: The deployments that capture: one for all keys, or one for each key.

    Returns:
        The lake, the flow run of each shard with its tickers and state, and the gaps of tickers
        whose shard was lost.
    """
    console.survive_closed_output()
    try:
        now = market_hours.reference_time(datetime.now(UTC), runtime.flow_run.scheduled_start_time)
        span = CaptureSpan.of(duration, until, now)
        rates = read_rates(lake)
        shards = split_tickers(parse_tickers(tickers), keys, rates, limit)
    except StocktraceError as error:
        return Failed(message=str(error))
    end = span.until or now + timedelta(seconds=span.duration or 0.0)
    parameters = {
        "until": end.isoformat(),
        "lake": lake,
        "url": url,
        "roll_interval": roll_interval,
    }
    runs = FleetRuns(Fleet(end, limit, rates), parameters)
    with get_client(sync_client=True) as client:
        try:
            _check_deployments(client, deployments)
        except UsageError as error:
            return Failed(message=str(error))
        save_automation(client, crash_automation())
        for number, shard in enumerate(shards):
            runs.fleet.add(deployments[number % len(deployments)], shard)
        never = threading.Event()
        while runs.check(client):
            never.wait(CHECK_INTERVAL_S)
    return result(runs.fleet, lake)


def _check_deployments(client: SyncPrefectClient, deployments: list[str]) -> None:
    for name in dict.fromkeys(deployments):
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise UsageError(
                f"Unknown deployment {name}. `prefect --no-prompt deploy --all` creates those of "
                "prefect.yaml."
            ) from None


def result(fleet: Fleet, lake: str) -> dict[str, Any] | State[Any]:
    """Write the gaps and return the result; failed if tickers were abandoned or a shard failed."""
    end = epoch_ns(min(datetime.now(UTC), fleet.end))
    gaps = 0
    try:
        if fleet.lost_at:
            gaps = write_uncovered_gaps(lake, new_session(end), fleet.lost_at, end, LOST)
    except LakeError as error:
        return Failed(message=f"The gaps of lost shards cannot be written: {error}")
    if fleet.abandoned:
        return Failed(message=f"No shard took over {' '.join(sorted(fleet.abandoned))}.")
    failed = [run.name for run in fleet.runs if run.state in FAILED_STATES and run.shard.tickers]
    if failed:
        return Failed(message=f"{', '.join(failed)} failed: see their flow runs.")
    shards = {
        str(run.run): {"state": run.state, "tickers": run.shard.tickers} for run in fleet.runs
    }
    text = f"{count_of(len(fleet.runs), 'shard')} recorded, {count_of(gaps, 'gap')} between them."
    return Completed(message=text, data={"lake": lake, "shards": shards, "gaps": gaps})
