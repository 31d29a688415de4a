"""A watch-list over the workers of a Prefect work pool: one key each, all into one lake.

    stocktrace-fleet/fleet          this flow: it splits, starts, watches, has taken over
    stocktrace-capture/shard        a capture on a worker, with the key and the disk of its machine

A shard that dies is told by Prefect's automation for dead runs (``flows.automations``, which is
made here if need be). Its tickers go to the shards that run and have room, else to a new run for
the next free worker. What was not heard meanwhile is named in the lake's coverage.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast
from uuid import UUID

from prefect import flow, get_client
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
from prefect.states import Failed
from pydantic import Field

from flows.automations import ensure, zombies
from flows.capture import Duration, LakeUrl, Tickers, Until, Url
from flows.outage import Outage
from flows.steer import TickerCommand
from stocktrace.cli.output import counted
from stocktrace.errors import LakeError, StocktraceError
from stocktrace.live import shards
from stocktrace.live.shards import Shard
from stocktrace.store.layout import new_session
from stocktrace.trade import parse_tickers
from stocktrace.until import Span

log = logging.getLogger("stocktrace.flow")

SHARD = "stocktrace-capture/shard"
# A dead run is told after two minutes anyhow; each look is one request a shard.
LOOK_EVERY_S = 5.0
# What is left of a session must be worth the start of a run, which takes ten seconds.
WORTH_S = 30.0
LOST = "its shard was lost"


@flow(name="stocktrace-fleet", persist_result=False)
def fleet(
    tickers: Tickers,
    keys: Annotated[int, Field(ge=1)],
    lake: LakeUrl,
    lasting: Duration | None = None,
    until: Until | None = None,
    limit: Annotated[int, Field(ge=0)] = shards.LIMIT,
    url: Url | None = None,
    roll_every: Duration | None = None,
    deployments: Annotated[list[str], Field(min_length=1)] = [SHARD],  # noqa: B006 - a form's
) -> dict[str, Any] | State[Any]:
    """Record many tickers with several API keys, on as many workers.

    Each worker takes one run at a time (prefect worker start --limit 1) and has a FINNHUB_API_KEY
    of its own in its environment. Give one of *lasting* and *until*.

    Args:
        tickers: Finnhub symbols, such as AAPL, BINANCE:BTCUSDT or OANDA:EUR_USD.
        keys: How many shards: as many as there are workers, each with its key.
        lake: The store that all of them send to, such as s3://bucket/prefix.
        lasting: How long: 30m, 6h30m. Leave it out if there is an end in *until*.
        until: When to end: close, 16:00 America/New_York, or an ISO time.
        limit: How many tickers a key takes; 0: any number.
        url: The address of the trade WebSocket; else that of each worker.
        roll_every: The length of a window; else that of each worker.
        deployments: What captures: one deployment for all keys, or one for each key.

    Returns:
        The lake, the flow run of each shard with its tickers and state, and the gaps of tickers
        whose shard was lost.
    """
    try:
        span, now = Span.of(lasting, until), datetime.now(UTC)
        known = shards.earlier(lake)
        split = shards.split(parse_tickers(tickers), keys, known, limit)
    except StocktraceError as error:
        return Failed(message=str(error))
    end = span.until or now + timedelta(seconds=span.lasting or 0.0)
    asked = {"until": end.isoformat(), "lake": lake, "url": url, "roll_every": roll_every}
    watch = Fleet(asked, end, limit, known)
    with get_client(sync_client=True) as client:
        ensure(client, zombies())
        for number, one in enumerate(split):
            watch.start(deployments[number % len(deployments)], one)
        watch.show()
        tick = threading.Event()
        while watch.look(client):
            tick.wait(LOOK_EVERY_S)
    return watch.result(lake)


@dataclass(slots=True)
class Member:
    """A shard and its flow run; ``again`` if it took over from one that failed."""

    run: UUID
    name: str
    deployment: str
    shard: Shard
    again: bool
    state: StateType = StateType.SCHEDULED
    over: bool = False


@dataclass(slots=True)
class Fleet:
    """The flow runs of a fleet; ``lost`` has when a ticker without a shard was heard last (ns)."""

    asked: dict[str, str | None]
    end: datetime
    limit: int
    known: dict[str, float]
    members: list[Member] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    outage: Outage = field(
        default_factory=lambda: Outage("Prefect cannot be asked", "Prefect can be asked again")
    )

    def start(self, deployment: str, shard: Shard, *, again: bool = False) -> None:
        """Have a worker capture ``shard``."""
        given = {name: value for name, value in self.asked.items() if value is not None}
        asked = {"tickers": shard.tickers, **given}
        run = cast("FlowRun", run_deployment(deployment, parameters=asked, timeout=0))
        self.members.append(Member(run.id, run.name, deployment, shard, again))

    def look(self, client: SyncPrefectClient) -> bool:
        """See how the runs stand, have lost ones taken over; whether any goes on."""
        changed = False
        for member in [one for one in self.members if not one.over]:
            try:
                run = client.read_flow_run(member.run)
            except Exception as error:  # noqa: BLE001 - captures go on without the server, so do we
                self.outage.failed(error)
                return True
            self.outage.answered()
            state = run.state.type if run.state is not None else member.state
            changed |= state != member.state
            member.state, member.over = state, state in _OVER
            if state in {StateType.CRASHED, StateType.FAILED}:
                self._take_over(client, member)
        if changed:
            self.show()
        return not all(member.over for member in self.members)

    def _take_over(self, client: SyncPrefectClient, dead: Member) -> None:
        if (self.end - datetime.now(UTC)).total_seconds() < WORTH_S:
            return
        orphans, since = dead.shard.tickers, _last_heartbeat(client, dead.run)
        for ticker in orphans:
            self.lost.setdefault(ticker, since)
        running = [one for one in self.members if one.state is StateType.RUNNING]
        room = [one.shard for one in running]
        got, left = shards.spread(orphans, room, self.known, self.limit)
        dead.shard = Shard()
        for member, some in zip(running, got, strict=True):
            if some:
                TickerCommand(symbols=some, action="add").send_to(member.run)
                log.warning("shard %s is lost: %s takes %d", dead.name, member.name, len(some))
        if left and not dead.again:
            log.warning("shard %s is lost: a new run for %d tickers", dead.name, len(left))
            (anew,) = shards.split(left, 1, self.known, self.limit)
            self.start(dead.deployment, anew, again=True)
        elif left:
            log.error("shard %s is lost: nobody takes %s", dead.name, " ".join(left))
            self.left |= set(left)

    def show(self) -> None:
        """The table of shards, on the page of the run."""
        lines = [
            f"| {member.name} | {member.state.value} | {len(member.shard.tickers)} |"
            f" {member.shard.rate:.1f} |"
            for member in self.members
        ]
        head = "| shard | state | tickers | expected trades/s |\n|---|---|---|---|\n"
        if failures := self.outage.failures:
            lines.append(f"\nPrefect did not answer {counted(failures, 'call')}")
        create_markdown_artifact(head + "\n".join(lines), key="stocktrace-fleet")

    def result(self, lake: str) -> dict[str, Any] | State[Any]:
        """What came of it; failed, if tickers were lost for good or a shard failed at its end."""
        now = datetime.now(UTC)
        stamp = int(min(now, self.end).timestamp() * 1e9)
        gaps = 0
        try:
            if self.lost:
                gaps = shards.name_gaps(lake, new_session(stamp), self.lost, stamp, LOST)
        except LakeError as error:
            return Failed(message=f"The gaps of lost shards are not named: {error}")
        if self.left:
            return Failed(message=f"Nobody took over {' '.join(sorted(self.left))}.")
        failed = [one for one in self.members if one.state in _BAD and one.shard.tickers]
        if failed:
            return Failed(message=f"{_names(failed)} failed: see their flow runs.")
        return {
            "lake": lake,
            "shards": {
                str(one.run): {"state": one.state.value, "tickers": one.shard.tickers}
                for one in self.members
            },
            "gaps": gaps,
        }


_BAD = {StateType.CRASHED, StateType.FAILED}
_OVER = {StateType.COMPLETED, StateType.CANCELLED, *_BAD}


def _names(members: Iterable[Member]) -> str:
    return ", ".join(member.name for member in members)


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
