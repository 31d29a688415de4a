"""Events that the statuses of a capture add up to; Prefect's automations act on them.

docs/operations.md lists them with their payloads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stocktrace.sessions.status import CaptureStatus

GAP = "stocktrace.feed.gap"
RECONNECT = "stocktrace.feed.reconnect"
BURST = "stocktrace.quarantine.burst"

# A single refused row is normal; so many in a minute mean that the feed has changed.
_BURST_ROWS = 20
_BURST_S = 60.0
_MAX_BURST_TICKERS = 5


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """An event of a session."""

    name: str
    session: str
    occurred_at: datetime | None
    payload: dict[str, Any]


class StatusEventDetector:
    """Compares each status of a capture with those before; one thread."""

    def __init__(self) -> None:
        self._gaps = self._reconnects = 0
        self._refused: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._is_bursting = False

    def detect(self, status: CaptureStatus) -> list[StatusEvent]:
        """Return the events since the last status."""
        payloads = {
            GAP: self._gap(status),
            RECONNECT: self._reconnect(status),
            BURST: self._burst(status),
        }
        return [
            StatusEvent(name, status.session, status.written_at, payload)
            for name, payload in payloads.items()
            if payload is not None
        ]

    def _gap(self, status: CaptureStatus) -> dict[str, Any] | None:
        added, self._gaps = status.outages - self._gaps, status.outages
        gap = status.last_outage
        if added <= 0 or gap is None:
            return None
        return {
            "start": gap.start.isoformat(),
            "end": gap.end.isoformat(),
            "seconds": round((gap.end - gap.start).total_seconds(), 3),
            "reason": gap.reason,
            "tickers": gap.tickers,
            "gaps": added,
        }

    def _reconnect(self, status: CaptureStatus) -> dict[str, Any] | None:
        if not status.connected or status.reconnects <= self._reconnects:
            return None
        self._reconnects = status.reconnects
        reason = status.last_outage.reason if status.last_outage is not None else ""
        return {"reconnects": status.reconnects, "reason": reason}

    def _burst(self, status: CaptureStatus) -> dict[str, Any] | None:
        samples = self._refused
        samples.append((status.elapsed_s, status.quarantined))
        while len(samples) > 2 and samples[1][0] <= status.elapsed_s - _BURST_S:
            samples.popleft()
        (since, before), (now, refused) = samples[0], samples[-1]
        was_bursting, self._is_bursting = self._is_bursting, refused - before >= _BURST_ROWS
        if was_bursting or not self._is_bursting:
            return None
        worst = sorted(status.quarantined_by_ticker.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": refused - before,
            "seconds": round(now - since, 1),
            "quarantined": refused,
            "tickers": [name for name, _ in worst[:_MAX_BURST_TICKERS]],
        }
