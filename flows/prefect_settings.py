"""Prefect's settings as stocktrace needs them, put into the environment before it is imported.

What the user has set in the environment stays as it is.
"""

from __future__ import annotations

import os

DEFAULTS = {
    # Without PREFECT_API_URL a server of one's own is started, and ends with the process.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    # A fresh home often takes longer than the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # A place in a limit outlives the server that gave it, and ends with its lease (flows/key_lease.py).
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    # No calls home: a capture talks to the exchange and to nobody else.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The messages of the core belong to the flow run; those of other threads to nobody.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "stocktrace",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # The shortest that Prefect takes, so that a dead capture is noticed in two minutes.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


def set_defaults() -> None:
    """Set what is not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
