"""The flows that ask REST, against a Prefect server and the simulated exchange."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktrace.simulator import Simulator
from tests.conftest import hurry
from tests.gaps import KEY, capture, exchange, here, market, rows
from tests.station import Api, reading

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import
TRADES = market()


@pytest.fixture
def asked(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    hurry(monkeypatch)
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    with exchange(TRADES) as rest:
        yield rest


@pytest.fixture
def api(server: str) -> Iterator[Api]:
    with reading(server) as api:
        yield api


def table(api: Api, state: Any, key: str) -> list[dict[str, Any]]:
    run = str(state.state_details.flow_run_id)
    return list(json.loads(api.artifact(run, key)["data"]))


@pytest.mark.slow
def test_gaps_are_repaired_and_the_day_is_reconciled(
    tmp_path: Path, asked: Simulator, api: Api
) -> None:
    from flows.backfill import BACKFILL_ARTIFACT, COMPLETENESS_ARTIFACT, backfill, reconcile

    layout = capture(tmp_path / "data", TRADES)
    place = {"data_dir": str(layout.root), "url": asked.url}
    state = backfill(**place, return_state=True)
    assert (state.type.value, state.message) == ("COMPLETED", "2 repaired; 228 trades.")
    assert here(layout) == rows(TRADES)
    assert [row["state"] for row in table(api, state, BACKFILL_ARTIFACT)] == [
        "repaired",
        "repaired",
    ]
    state = backfill(**place, return_state=True)
    assert state.message == "nothing to repair; 0 trades."
    state = reconcile("2025-11-21", **place, return_state=True)
    assert (state.type.value, state.message) == ("COMPLETED", "2 tickers complete.")
    assert [row["symbol"] for row in table(api, state, COMPLETENESS_ARTIFACT)] == ["AAPL", "MSFT"]
    state = reconcile("2025-11-21", ["AAPL", "OANDA:EUR_USD"], **place, return_state=True)
    assert state.type.value == "FAILED"
    assert "OANDA:EUR_USD: REST has ticks of US stocks only" in str(state.message)


@pytest.mark.slow
def test_a_free_key_fails_with_one_sentence(tmp_path: Path, asked: Simulator) -> None:
    from flows.backfill import backfill, reconcile

    layout = capture(tmp_path / "data", TRADES)
    with exchange(TRADES, premium=False) as free:
        place = {"data_dir": str(layout.root), "url": free.url}
        for state in (
            backfill(**place, return_state=True),
            reconcile("2025-11-21", **place, return_state=True),
        ):
            assert state.type.value == "FAILED"
            assert "has no historical ticks (HTTP 403)" in str(state.message)


@pytest.mark.parametrize("wrong", [{"date": "today"}, {"min_share": 2}])
def test_a_senseless_value_is_not_a_parameter(wrong: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.backfill import reconcile

    with pytest.raises(ParameterTypeError):
        reconcile.validate_parameters(wrong)
