"""How a capture stands, made by hand."""

from __future__ import annotations

from typing import Any

from stocktrace.sessions.status import CaptureStatus
from tests.conftest import SESSION


def a_status(**given: Any) -> CaptureStatus:
    """That of a capture that listens to AAPL and has heard nothing; ``given`` is what differs."""
    usual: dict[str, Any] = {
        "session": SESSION,
        "connected": True,
        "state": "connected" if given.get("connected", True) else "reconnecting",
        "elapsed_s": 10.0,
        "remaining_s": 20.0,
        "trades": 0,
        "backlog": 0,
        "reconnects": 0,
        "lag_ms": 80.0,
        "tickers": ("AAPL",),
        "per_ticker": {},
    }
    return CaptureStatus(**{**usual, **given})
