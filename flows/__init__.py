"""Everything that Prefect runs: decorators, parameters, artifacts, and no other logic.

Importing it puts the Prefect settings that stocktrace needs into the environment, before Prefect is
imported. Settings that the user has there stay as they are.
"""

from __future__ import annotations

import os

DEFAULTS = {
    # Without PREFECT_API_URL, Prefect starts a server that ends with the process.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    # A fresh home often takes longer than the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # A key lease outlives a restart of the server (flows/key_lease.py).
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    # No telemetry: a capture connects to Finnhub and to nobody else.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The messages of stocktrace belong to the flow run; those of other threads to no run.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "stocktrace",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # The shortest that Prefect accepts: a crashed capture is noticed within two minutes.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
