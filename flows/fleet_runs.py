"""The flow runs of a fleet: started, watched, and sent the tickers that they take over.

Prefect's server may be slow or unreachable at any moment. Every decision is therefore recorded in
the ``Fleet`` first, and carried out at each check until the server has confirmed it. Starting a
run uses an idempotency key, and sending the same tickers again changes nothing. A run that ended
without having received its tickers loses them to another.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled

from flows.server_outage import ServerOutage
from flows.ticker_commands import TickerCommand
from stocktrace.live.fleet import FAILED_STATES, Fleet, ShardRun
from stocktrace.show.markdown import fleet_page
from stocktrace.text import count_of
from stocktrace.units import epoch_ns

log = logging.getLogger("stocktrace.flow")

ARTIFACT = "stocktrace-fleet"


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
            for step in (self._update, self._send):
                for run in self.fleet.active_runs:
                    try:
                        step(client, run)
                    except Exception as error:  # noqa: BLE001 - the next check does it
                        self.outage.on_failure(error)
            try:
                self._show_page()
            except Exception as error:  # noqa: BLE001 - as above
                self.outage.on_failure(error)
        if self.outage.failures == failures:
            self.outage.on_success()
        return bool(self.fleet.active_runs)

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

    def _send(self, client: SyncPrefectClient, run: ShardRun) -> None:
        """Start a run, or send it the tickers that it took over."""
        del client  # these calls make their own
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
        """Show the table of shards in Prefect, if it has changed."""
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
    moment = events[0].occurred if events else datetime.now(UTC)
    return epoch_ns(moment)
