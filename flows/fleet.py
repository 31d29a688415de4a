"""A watch-list over the workers of a Prefect work pool: one key each, all into one lake.

    stocktrace-fleet/fleet          this flow: splits, starts, watches and reassigns tickers
    stocktrace-capture/shard        a capture on a worker, with the key and the disk of its machine

Prefect's automation for runs without a heartbeat (``flows.automations``, created here if it is
missing) marks a crashed shard. Its tickers are reassigned to running shards with room, or to a new
run for the next free worker. Time in which a ticker was not captured becomes a gap in the lake's
coverage.

Prefect's server may be unreachable at any moment. Every decision is therefore recorded in the
``Fleet`` first, and carried out at each check until the server has confirmed it: a run is started
with an idempotency key, and sending the same tickers again changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, cast
from uuid import UUID

from prefect import flow, get_client, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows import console
from flows.automations import crash_automation, save_automation
from flows.capture import describe_span
from flows.fields import Duration, LakeUrl, Tickers, Until, Url
from flows.retarget import TickerCommand
from flows.server_outage import ServerOutage
from stocktrace import calendar
from stocktrace.end_time import CaptureSpan
from stocktrace.errors import LakeError, StocktraceError, UsageError
from stocktrace.live.fleet import (
    FAILED_STATES,
    SYMBOL_LIMIT,
    Fleet,
    ShardRun,
    read_rates,
    split_tickers,
    write_uncovered_gaps,
)
from stocktrace.show.markdown import fleet_page
from stocktrace.store.names import new_session
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers
from stocktrace.units import epoch_ns

log = logging.getLogger("stocktrace.flow")

ARTIFACT = "stocktrace-fleet"
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
        now = calendar.reference_time(datetime.now(UTC), runtime.flow_run.scheduled_start_time)
        span = CaptureSpan.of(duration, until, now)
        rates = read_rates(lake)
        shards = split_tickers(parse_tickers(tickers), keys, rates, limit)
        end = span.until or now + timedelta(seconds=span.duration or 0.0)
        given = {"until": end.isoformat(), "lake": lake, "url": url, "roll_interval": roll_interval}
        runs = FleetRuns(Fleet(end, limit, rates), given)
        with get_client(sync_client=True) as client:
            _check_deployments(client, deployments)
            save_automation(client, crash_automation())
            for number, shard in enumerate(shards):
                runs.fleet.add(deployments[number % len(deployments)], shard)
            never = threading.Event()
            while runs.check(client):
                never.wait(CHECK_INTERVAL_S)
    except StocktraceError as error:
        return Failed(message=str(error))
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


@dataclass(slots=True)
class FleetRuns:
    """Runs the shards of ``fleet``, each with ``parameters`` besides its tickers."""

    fleet: Fleet
    parameters: dict[str, str | None]
    outage: ServerOutage = field(default_factory=lambda: ServerOutage("be asked"))
    _page: str = ""

    def check(self, client: SyncPrefectClient) -> bool:
        """Update all runs and do what is pending; return whether any run has not ended."""
        failures = self.outage.failures
        # Prefect's own five retries would hold up the other runs long after the server is back.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            for run in self.fleet.active_runs:
                self._try(partial(self._update, client, run))
            for run in self.fleet.active_runs:
                self._try(partial(self._send, run))
            self._try(self._show_page)
        if self.outage.failures == failures:
            self.outage.on_success()
        return bool(self.fleet.active_runs)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the next check does it
            self.outage.on_failure(error)

    def _update(self, client: SyncPrefectClient, run: ShardRun) -> None:
        """Update a run. Nothing changes before the server has answered every question."""
        state, alive_at = run.state, epoch_ns(self.fleet.began)
        if run.run is not None:
            try:
                flow_run = client.read_flow_run(run.run)
            except ObjectNotFound:
                log.warning("the flow run of shard %s was deleted in Prefect", run.name)
                state = "CANCELLED"
            else:
                run.name = flow_run.name
                state = flow_run.state.type.value if flow_run.state is not None else state
            if state in FAILED_STATES:
                alive_at = _last_heartbeat(client, run.run)
        if self.fleet.is_overdue(state):
            if run.run is not None:
                late: State[Any] = Cancelled(message="No worker started it before the fleet ended.")
                client.set_flow_run_state(run.run, late)
            run.unsent, state = run.shard.tickers, "CANCELLED"
        self.fleet.update(run, state, alive_at)

    def _send(self, run: ShardRun) -> None:
        """Start a run, or send it the tickers that it took over."""
        if run.run is None:
            given = {name: value for name, value in self.parameters.items() if value is not None}
            parameters = {"tickers": run.shard.tickers, **given}
            flow_run = run_deployment(
                run.deployment, parameters=parameters, timeout=0, idempotency_key=run.key
            )
            run.run, run.name = cast("FlowRun", flow_run).id, cast("FlowRun", flow_run).name
        elif run.unsent and run.state == "RUNNING":
            TickerCommand(symbols=run.unsent, action="add").send_to(run.run)
            log.info("shard %s was sent %s", run.name, count_of(len(run.unsent), "ticker"))
            run.unsent = []

    def _show_page(self) -> None:
        page = fleet_page(self.fleet, self.outage.failures)
        if page != self._page:
            create_markdown_artifact(page, ARTIFACT)
            self._page = page


def _last_heartbeat(client: SyncPrefectClient, run: UUID) -> int:
    """Return when a flow run was certainly alive for the last time (epoch ns)."""
    wanted = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat", "prefect.flow-run.Running"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
        order=EventOrder.DESC,
    )
    events = client.read_events(wanted, limit=1).events
    return epoch_ns(events[0].occurred if events else datetime.now(UTC))
