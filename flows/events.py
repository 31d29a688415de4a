"""What Prefect is told of a capture as events, so that an automation can act on it.

==============================  =============================================================
``stocktrace.feed.gap``         nobody listened for a while: ``start``, ``end``, ``seconds``,
                                ``reason``, ``tickers``; ``gaps`` ended since the last event
``stocktrace.feed.reconnect``   it listens again after a loss: ``reconnects`` so far, ``reason``
``stocktrace.quarantine.burst`` many rows were refused in a minute: ``rows``, ``seconds``,
                                ``quarantined`` so far, the ``tickers`` with most of them
==============================  =============================================================

The resource of each is the session (``stocktrace.session.<name>``), the flow run is related.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect import runtime
from prefect.events import emit_event

from stocktrace.sessions.status import CaptureStatus

GAP = "stocktrace.feed.gap"
RECONNECT = "stocktrace.feed.reconnect"
BURST = "stocktrace.quarantine.burst"

# A stray row now and then is the exchange's everyday life; this many in a minute is a change.
BURST_ROWS = 20
BURST_S = 60.0
_WORST = 5


@dataclass(frozen=True, slots=True)
class CaptureEvent:
    """Something that happened, for Prefect's feed of events."""

    event: str
    session: str
    occurred_at: datetime | None
    payload: dict[str, Any]

    def emit(self) -> None:
        """Send it; called with the context of the flow run."""
        run = {
            "prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}",
            "prefect.resource.role": "flow-run",
            "prefect.resource.name": runtime.flow_run.name or "",
        }
        resource = {
            "prefect.resource.id": f"stocktrace.session.{self.session}",
            "prefect.resource.name": self.session,
        }
        emit_event(self.event, resource, self.occurred_at, related=[run], payload=self.payload)


class EventDetector:
    """Compares each status with those before; one thread."""

    def __init__(self) -> None:
        self._gaps = self._reconnects = 0
        self._refused: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._bursting = False

    def __call__(self, status: CaptureStatus) -> list[CaptureEvent]:
        """What is new."""
        found = [self._gap(status), self._reconnect(status), self._burst(status)]
        return [
            CaptureEvent(event, status.session, status.written_at, payload)
            for event, payload in zip((GAP, RECONNECT, BURST), found, strict=True)
            if payload is not None
        ]

    def _gap(self, status: CaptureStatus) -> dict[str, Any] | None:
        fresh, self._gaps = status.outages - self._gaps, status.outages
        gap = status.last_outage
        if fresh <= 0 or gap is None:
            return None
        return {
            "start": gap.start.isoformat(),
            "end": gap.end.isoformat(),
            "seconds": round((gap.end - gap.start).total_seconds(), 3),
            "reason": gap.reason,
            "tickers": gap.tickers,
            "gaps": fresh,
        }

    def _reconnect(self, status: CaptureStatus) -> dict[str, Any] | None:
        if not status.connected or status.reconnects <= self._reconnects:
            return None
        self._reconnects = status.reconnects
        reason = status.last_outage.reason if status.last_outage is not None else ""
        return {"reconnects": status.reconnects, "reason": reason}

    def _burst(self, status: CaptureStatus) -> dict[str, Any] | None:
        looks = self._refused
        looks.append((status.elapsed_s, status.quarantined))
        while len(looks) > 2 and looks[1][0] <= status.elapsed_s - BURST_S:
            looks.popleft()
        (since, before), (now, refused) = looks[0], looks[-1]
        was, self._bursting = self._bursting, refused - before >= BURST_ROWS
        if was or not self._bursting:
            return None
        worst = sorted(status.quarantined_by_ticker.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": refused - before,
            "seconds": round(now - since, 1),
            "quarantined": refused,
            "tickers": [name for name, _ in worst[:_WORST]],
        }
