"""One Prefect server for all tests of flows; they are run by one worker (tests/order.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import flows  # noqa: F401 - sets Prefect's variables, before the first fixture imports Prefect
from tests.station import Api, reading


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its API."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.delenv("PREFECT_API_URL", raising=False)
        for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
            patch.delenv(name)  # it runs nothing of ours
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
            temporary_settings,
        )
        from prefect.testing.utilities import prefect_test_harness

        fast = {
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # its thread takes a second to join
            PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2,
        }
        with prefect_test_harness(server_startup_timeout=120), temporary_settings(fast):
            yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="package")
def api(server: str) -> Iterator[Api]:
    """That API, to look into."""
    with reading(server) as api:
        yield api
