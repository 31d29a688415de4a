"""``python -m flows.automations``: the automations of Prefect that watch captures.

    python -m flows.automations                                 # mark crashed runs
    python -m flows.automations --block slack-webhook/trading   # send alerts, too

Running it again corrects automations that differ from these. An automation that the user switched
off stays off.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from cyclopts import Parameter

from flows import console
from stocktrace.cli import output
from stocktrace.errors import UsageError
from stocktrace.live.status_events import BURST, GAP, RECONNECT

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

#: Four heartbeats of flows/__init__.py: one or two may be late on a busy machine.
HEARTBEAT_TIMEOUT_S = 120

AutomationChange = Literal["created", "changed", "unchanged"]


def main(
    *,
    block: Annotated[
        str | None, Parameter(help="A notification block of Prefect, TYPE/NAME, for alerts.")
    ] = None,
) -> int:
    """Create the automations for captures, or correct them.

    Without --block, only crashed runs are marked: alerts need a notification block. Make one in
    Prefect's UI (Blocks, such as Slack Webhook) and name it here, such as slack-webhook/trading.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        automations = [crash_automation()]
        if block is not None:
            automations += alert_automations(_find_block(client, block))
        for automation in automations:
            output.to_stdout(f"{save_automation(client, automation)}: {automation.name}\n")
    if block is None:
        output.to_stdout("no alerts: name a notification block with --block TYPE/NAME\n")
    return 0


def save_automation(client: SyncPrefectClient, automation: AutomationCore) -> AutomationChange:
    """Create the automation in Prefect, or correct the one that has its name."""
    found = client.read_automations_by_name(automation.name)
    if not found:
        client.create_automation(automation)
        return "created"
    old = found[0]
    ignored = {"id", "enabled", "owner_resource"}
    if old.model_dump(exclude=ignored) == automation.model_dump(exclude=ignored):
        return "unchanged"
    client.update_automation(old.id, automation.model_copy(update={"enabled": old.enabled}))
    return "changed"


def crash_automation() -> AutomationCore:
    """Mark a run of stocktrace without a heartbeat for ``HEARTBEAT_TIMEOUT_S`` as Crashed."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    silence = f"No heartbeat for {HEARTBEAT_TIMEOUT_S} s"
    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    mark = ChangeFlowRunState(
        state=StateType.CRASHED, message=f"{silence}: its process or machine failed."
    )
    return AutomationCore(
        name="stocktrace: mark runs without a heartbeat Crashed",
        description=f"{silence}; the next capture recovers its data.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # Other flows on this server may have a slower heartbeat.
            match_related={
                "prefect.resource.role": "flow",
                "prefect.resource.name": "stocktrace-*",
            },
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEAT_TIMEOUT_S),
        ),
        actions=[mark],
    )


def alert_automations(block: UUID) -> list[AutomationCore]:
    """Send gaps, repeated reconnects and bursts of quarantined rows through a block."""
    gap = "{{ event.payload.seconds }} s without data: {{ event.payload.reason }}"
    reconnects = (
        "{{ event.payload.reconnects }} connections lost, three of them within ten minutes: "
        "{{ event.payload.reason }}"
    )
    burst = (
        "{{ event.payload.rows }} rows refused within {{ event.payload.seconds }} s: "
        "{{ event.payload.tickers | join(', ') }}"
    )
    return [
        _alert(block, GAP, "alert on gaps", gap),
        _alert(block, RECONNECT, "alert on repeated reconnects", reconnects, 3, within_s=600),
        _alert(block, BURST, "alert on quarantined rows", burst),
    ]


def _alert(
    block: UUID, event: str, name: str, body: str, times: int = 1, within_s: int = 0
) -> AutomationCore:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    notification = SendNotification(
        block_document_id=block,
        subject="stocktrace: {{ flow_run.name }}",
        body=f"{body}\n\n{{{{ flow_run | ui_url }}}}",
    )
    return AutomationCore(
        name=f"stocktrace: {name}",
        description=f"On {event}.",
        trigger=EventTrigger(
            expect={event},
            match={"prefect.resource.id": "stocktrace.session.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=times,
            within=timedelta(seconds=within_s),
        ),
        actions=[notification],
    )


def _find_block(client: SyncPrefectClient, slug: str) -> UUID:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = slug.partition("/")
    with suppress(ObjectNotFound):
        if kind and name:
            return client.read_block_document_by_name(name, kind).id
    raise UsageError(
        f"Unknown block {slug!r}. Name it as TYPE/NAME, as `prefect block ls` lists it."
    )


if __name__ == "__main__":
    console.run_script("flows.automations", main)
