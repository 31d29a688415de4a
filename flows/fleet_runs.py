"""The flow runs of a fleet: started, watched, taken over from when they die.

The server may be slow or gone at any moment. What is to be done is therefore noted here first, and
done at each look until the server has confirmed it: a run is asked for under a key of its own, so
that asking again starts no second one, and tickers are sent to the same heir until it has them, for
sending them again changes nothing. Only an heir that ended without them loses them to another.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOrder,
    EventResourceFilter,
)
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled

from flows.markdown import escape_markdown
from flows.server_outage import ServerOutage
from flows.ticker_commands import TickerCommand
from stocktrace.live import fleet
from stocktrace.live.fleet import Shard
from stocktrace.text import count_of

log = logging.getLogger("stocktrace.flow")

KEY = "stocktrace-fleet"
# What is left of a session must be worth the start of a run, which takes ten seconds.
WORTH_S = 30.0

BAD = {StateType.CRASHED, StateType.FAILED}
_WAITING = {StateType.SCHEDULED, StateType.PENDING}
_OVER = {StateType.COMPLETED, StateType.CANCELLED, *BAD}


@dataclass(slots=True)
class ShardRun:
    """A shard and its flow run, which has an id once the server has answered.

    ``untold`` are those of its tickers that it has still to be sent; ``again`` says that it took
    over from one that failed.
    """

    deployment: str
    shard: Shard
    restarted: bool = False
    run: UUID | None = None
    name: str = "(not started)"
    state: StateType = StateType.SCHEDULED
    unreported: list[str] = field(default_factory=list)
    key: str = field(default_factory=lambda: str(uuid4()))

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.state in _OVER


@dataclass(slots=True)
class FleetRuns:
    """All of them; ``lost`` has when a ticker without a shard was heard last (epoch ns).

    ``left`` are the tickers that nobody took over.
    """

    tickers: dict[str, str | None]
    end: datetime
    limit: int
    known: dict[str, float]
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    all: list[ShardRun] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    remaining: set[str] = field(default_factory=set)
    outage: ServerOutage = field(
        default_factory=lambda: ServerOutage(
            "Prefect cannot be asked", "Prefect can be asked again"
        )
    )
    _shown: str = ""

    def add(self, deployment: str, shard: Shard, *, again: bool = False) -> None:
        """Have a worker capture ``shard``, from the next look on."""
        self.all.append(ShardRun(deployment, shard, again))

    def check(self, client: SyncPrefectClient) -> bool:
        """See how the runs stand, do what is to be done; whether any goes on."""
        failures = self.outage.failures
        # Prefect's own five retries would hold up all others long after the server is back.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            for step in (self._update, self._report):
                for member in [one for one in self.all if not one.has_ended]:
                    try:
                        step(client, member)
                    except Exception as error:  # noqa: BLE001 - the next look does it
                        self.outage.on_failure(error)
            try:
                self._show()
            except Exception as error:  # noqa: BLE001 - as above
                self.outage.on_failure(error)
        if self.outage.failures == failures:
            self.outage.on_success()
        return not all(member.has_ended for member in self.all)

    def _update(self, client: SyncPrefectClient, member: ShardRun) -> None:
        """How its run stands, and who takes over; nothing changes before all of it is known."""
        state, since = member.state, int(self.began.timestamp() * 1e9)
        if member.run is not None:
            try:
                run = client.read_flow_run(member.run)
            except ObjectNotFound:
                log.warning("the flow run of shard %s was deleted in Prefect", member.name)
                state = StateType.CANCELLED
            else:
                member.name = run.name
                state = run.state.type if run.state is not None else state
            if state in BAD:
                since = _last_heartbeat(client, member.run)
        if state in _WAITING and self._left_s() <= 0:
            if member.run is not None:
                late: State[Any] = Cancelled(
                    message="No worker started it before the fleet's time was up."
                )
                client.set_flow_run_state(member.run, late)
            member.unreported, state = member.shard.tickers, StateType.CANCELLED
        member.state = state
        orphans = (
            member.shard.tickers if state in BAD else member.unreported if member.has_ended else []
        )
        if orphans and self._left_s() > WORTH_S:
            self._hand_over(member, orphans, since)
        elif member.has_ended and member.unreported:
            self._on_lost(member, member.unreported, since)

    def _hand_over(self, dead: ShardRun, orphans: list[str], since: int) -> None:
        """Say who takes the tickers of a run that is over, or those that it was not sent."""
        for ticker in orphans:
            self.lost.setdefault(ticker, since)
        running = [one for one in self.all if one.state is StateType.RUNNING]
        survivors = [one.shard for one in running]
        heirs = fleet.plan_take_over(
            dead.shard, orphans, survivors, self.known, self.limit, again=dead.restarted
        )
        dead.unreported = []
        for heir, some in zip(running, heirs.reassigned, strict=True):
            if some:
                heir.unreported = heir.unreported + some
                tickers = count_of(len(some), "ticker")
                log.warning("shard %s is lost: %s takes %s", dead.name, heir.name, tickers)
        if heirs.new_runs is not None:
            tickers = count_of(len(heirs.new_runs.tickers), "ticker")
            log.warning("shard %s is lost: a new run for %s", dead.name, tickers)
            self.add(dead.deployment, heirs.new_runs, again=True)
        if heirs.unassigned:
            self._on_lost(dead, heirs.unassigned, since)

    def _on_lost(self, member: ShardRun, tickers: list[str], since: int) -> None:
        for ticker in tickers:
            self.lost.setdefault(ticker, since)
        self.remaining |= set(tickers)
        log.error("shard %s is lost: nobody takes %s", member.name, " ".join(tickers))

    def _report(self, client: SyncPrefectClient, member: ShardRun) -> None:
        """Ask for its run, or send it what it took over."""
        del client  # these calls make their own
        if member.run is None:
            given = {name: value for name, value in self.tickers.items() if value is not None}
            asked = {"tickers": member.shard.tickers, **given}
            run = run_deployment(
                member.deployment, parameters=asked, timeout=0, idempotency_key=member.key
            )
            member.run, member.name = cast("FlowRun", run).id, cast("FlowRun", run).name
        elif member.unreported and member.state is StateType.RUNNING:
            TickerCommand(symbols=member.unreported, action="add").send_to(member.run)
            log.info(
                "shard %s was sent %s", member.name, count_of(len(member.unreported), "ticker")
            )
            member.unreported = []

    def _show(self) -> None:
        """The table of shards, on the page of the run, when it has changed."""
        lines = ["| shard | state | tickers | expected trades/s |", "|---|---|---:|---:|"]
        lines += [
            f"| {escape_markdown(one.name)} | {one.state.value.capitalize()} | {len(one.shard.tickers)} |"
            f" {one.shard.rate:.1f} |"
            for one in self.all
        ]
        waiting = [ticker for one in self.all if not one.has_ended for ticker in one.unreported]
        if waiting:
            lines.append(f"\n**Not handed over yet:** {escape_markdown(' '.join(waiting))}")
        if self.remaining:
            lines.append(f"\n**Nobody takes:** {escape_markdown(' '.join(sorted(self.remaining)))}")
        if failures := self.outage.failures:
            lines.append(f"\nPrefect did not answer {count_of(failures, 'call')}.")
        if (text := "\n".join(lines)) != self._shown:
            create_markdown_artifact(text, KEY)
            self._shown = text

    def _left_s(self) -> float:
        return (self.end - datetime.now(UTC)).total_seconds()


def _last_heartbeat(client: SyncPrefectClient, run: UUID) -> int:
    """When a flow run was alive for sure (epoch ns)."""
    wanted = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat", "prefect.flow-run.Running"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
        order=EventOrder.DESC,
    )
    events = client.read_events(wanted, limit=1).events
    moment = events[0].occurred if events else datetime.now(UTC)
    return int(moment.timestamp() * 1e9)
