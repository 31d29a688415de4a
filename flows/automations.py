"""``python -m flows.automations``: what Prefect does by itself about captures.

    python -m flows.automations                                 # dead runs are marked Crashed
    python -m flows.automations --block slack-webhook/trading   # and gaps and the like are told

Running it again changes nothing; what differs from what stands here is put right, except whether
an automation is switched on: that is the user's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from cyclopts import Parameter

from flows import script
from stocktrace.cli import output
from stocktrace.errors import UsageError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

#: Four heartbeats of flows/prefect_settings.py: one or two may be late on a busy machine.
SILENT_S = 120

AutomationChange = Literal["created", "changed", "unchanged"]


def main(
    *,
    block: Annotated[
        str | None,
        Parameter(help="A notification block of Prefect, TYPE/NAME, for alerts."),
    ] = None,
) -> int:
    """Create the automations for captures; again changes nothing.

    Without --block only the one that marks dead runs Crashed: an alert needs somewhere to go. Make
    a block in Prefect's UI (Blocks, such as Slack Webhook), then name it: slack-webhook/trading.
    """
    from prefect import get_client

    with get_client(sync_client=True) as client:
        wanted = [zombie_automation()]
        if block is not None:
            wanted += alert_automations(_block(client, block))
        for one in wanted:
            output.to_stdout(f"{create_automations(client, one)}: {one.name}\n")
    if block is None:
        output.to_stdout("no alerts: give a notification block with --block TYPE/NAME\n")
    return 0


def create_automations(client: SyncPrefectClient, wanted: AutomationCore) -> AutomationChange:
    """Have ``wanted`` in Prefect, once, as it is here."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return "created"
    there = found[0]
    kept = {"id", "enabled", "owner_resource"}
    if there.model_dump(exclude=kept) == wanted.model_dump(exclude=kept):
        return "unchanged"
    client.update_automation(there.id, wanted.model_copy(update={"enabled": there.enabled}))
    return "changed"


def zombie_automation() -> AutomationCore:
    """A run of stocktrace that gave no sign of life for ``SILENT_S`` is Crashed."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    return AutomationCore(
        name="stocktrace: mark dead runs Crashed",
        description=f"No heartbeat for {SILENT_S} s; the next capture recovers what it recorded.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # Others' flows on this server may beat more slowly.
            match_related={
                "prefect.resource.role": "flow",
                "prefect.resource.name": "stocktrace-*",
            },
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {SILENT_S} s: its process, or its machine, is gone.",
            )
        ],
    )


def alert_automations(block: UUID) -> list[AutomationCore]:
    """Messages through a notification block: gaps, losses again and again, refused rows."""
    from flows.events import BURST, GAP, RECONNECT

    return [
        _alert(
            block,
            GAP,
            "tell of gaps",
            "{{ event.payload.seconds }} s without data: {{ event.payload.reason }}",
        ),
        _alert(
            block,
            RECONNECT,
            "tell of a connection that does not last",
            "{{ event.payload.reconnects }} connections lost, three of them within ten minutes: "
            "{{ event.payload.reason }}",
            times=3,
            within_s=600,
        ),
        _alert(
            block,
            BURST,
            "tell of rows that are refused",
            "{{ event.payload.rows }} rows refused within {{ event.payload.seconds }} s: "
            "{{ event.payload.tickers | join(', ') }}",
        ),
    ]


def _alert(
    block: UUID, event: str, name: str, body: str, times: int = 1, within_s: int = 0
) -> AutomationCore:
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

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
        actions=[
            SendNotification(
                block_document_id=block,
                subject="stocktrace: {{ flow_run.name }}",
                body=f"{body}\n\n{{{{ flow_run | ui_url }}}}",
            )
        ],
    )


def _block(client: SyncPrefectClient, slug: str) -> UUID:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = slug.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind) if kind and name else None
    except ObjectNotFound:
        found = None
    if found is None:
        raise UsageError(
            f"There is no block {slug!r}: name one as TYPE/NAME, as `prefect block ls` lists them."
        )
    return found.id


if __name__ == "__main__":
    script.run_script("flows.automations", main)
