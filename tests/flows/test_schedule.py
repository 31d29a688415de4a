"""A run asks the calendar before it connects: skipped is neither failed nor recorded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stocktrace.end_time import CaptureSpan
from stocktrace.errors import StoreError
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

KEY = "c9k3yth4tmustn0tleak"


def run_at(moment: str, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> Any:
    """The state of a run that starts at a moment (UTC)."""
    from flows import capture as module

    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    monkeypatch.setattr(module, "now", lambda: datetime.fromisoformat(moment).replace(tzinfo=UTC))
    return module.capture(return_state=True, **asked)


@pytest.mark.parametrize(
    ("moment", "market", "tickers", "sentence"),
    [
        (
            "2026-11-26T14:25",  # Thanksgiving
            "us",
            ["AAPL"],
            "The US market is closed today; its next session opens Fri 2026-11-27 09:30 EST.",
        ),
        (
            "2026-11-28T12:00",  # a Saturday
            "us-extended",
            ["AAPL"],
            "The US market is closed today; its next session opens Mon 2026-11-30 04:00 EST.",
        ),
        (
            "2026-11-27T18:00",  # the half day has closed
            "us",
            ["AAPL", "BINANCE:BTCUSDT"],
            (
                "The US market has closed; its next session opens Mon 2026-11-30 09:30 EST. "
                "BINANCE:BTCUSDT can be recorded anyway, with market always."
            ),
        ),
    ],
)
def test_without_a_session_a_run_ends_at_once_as_skipped(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    market: str,
    tickers: list[str],
    sentence: str,
) -> None:
    state = run_at(
        moment,
        monkeypatch,
        tickers=tickers,
        until="close",
        market=market,
        data_dir=str(tmp_path / "data"),
    )
    assert (state.type.value, state.name, state.message) == ("COMPLETED", "Skipped", sentence)
    assert list(tmp_path.iterdir()) == []


def test_while_its_market_is_open_a_run_records(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulator(SyntheticMarket(rate=100.0), SimulatorSettings(key=KEY)) as exchange:
        state = run_at(
            "2026-11-27T17:58",
            monkeypatch,
            tickers=["AAPL"],
            duration="1s",
            market="us",
            url=exchange.url,
            data_dir=str(tmp_path / "data"),
        )
    assert (state.type.value, state.name) == ("COMPLETED", "Completed")
    assert list((tmp_path / "data").glob("parquet/*/*.parquet"))


class Known(StoreError):
    """When the run would end is known, and nothing need be recorded."""


@pytest.fixture
def end_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., datetime | str]:
    """Runs a flow that starts at a moment (UTC); gives when it would end, or why it would not."""
    from flows import capture as module

    def end_of(moment: str, scheduled: datetime | None, **asked: Any) -> datetime | str:
        spans: list[CaptureSpan] = []

        def record(tickers: object, span: CaptureSpan, given: object) -> None:
            spans.append(span)
            raise Known

        flow_run = SimpleNamespace(scheduled_start_time=scheduled, parameters={})
        monkeypatch.setattr(module, "runtime", SimpleNamespace(flow_run=flow_run))
        monkeypatch.setattr(module, "record", record)
        state = run_at(moment, monkeypatch, **asked)
        return spans[0].until if spans and spans[0].until else str(state.message)

    return end_of


MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
COINS = {"tickers": ["BINANCE:BTCUSDT"], "until": "tomorrow 00:01 UTC"}
STOCKS = {"tickers": ["AAPL"], "until": "close", "market": "us"}
IN_NEW_YORK = datetime(2026, 11, 24, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "moment", "scheduled", "end"),
    [
        (COINS, "2026-11-23T23:59:59.5", MIDNIGHT, "2026-11-25T00:01"),
        (COINS, "2026-11-23T23:59:59.5", None, "2026-11-24T00:01"),
        (COINS, "2026-11-23T23:57", MIDNIGHT, "2026-11-24T00:01"),
        (COINS, "2026-11-24T00:00:02", MIDNIGHT, "2026-11-25T00:01"),
        (COINS, "2026-11-25T23:59:59.5", MIDNIGHT, "2026-11-26T00:01"),
        (STOCKS, "2026-11-24T04:59:59.5", IN_NEW_YORK, "2026-11-24T21:00"),
        (STOCKS, "2026-11-24T05:00:02", IN_NEW_YORK, "2026-11-24T21:00"),
    ],
)
def test_a_run_that_starts_early_ends_by_its_scheduled_start(
    server: str,
    end_of: Callable[..., datetime | str],
    asked: dict[str, Any],
    moment: str,
    scheduled: datetime | None,
    end: str,
) -> None:
    """Prefect starts a run early: `crypto` ended a minute after it had begun (story 115)."""
    found = end_of(moment, scheduled, **asked)
    assert found == datetime.fromisoformat(end).replace(tzinfo=UTC)


def test_started_by_hand_before_midnight_in_new_york_the_market_has_closed(
    server: str, end_of: Callable[..., datetime | str]
) -> None:
    found = end_of("2026-11-24T04:59:59.5", None, **STOCKS)
    assert isinstance(found, str)
    assert found.startswith("The US market has closed")


def test_the_form_offers_the_markets_and_checks_the_time() -> None:
    from flows.capture import capture

    form = capture.parameters.model_dump()["properties"]
    assert form["market"]["enum"] == ["us", "us-extended", "always"]
    assert "closed" in form["market"]["description"]
    asked = {"tickers": ["AAPL"], "market": "us"}
    for until in ("close", "extended close", "16:00", "tomorrow 00:01 UTC", "2026-11-23T16:00Z"):
        capture.validate_parameters({**asked, "until": until})
    for until in ("closed", "the close", "tomorrow", "noon"):
        with pytest.raises(Exception, match="until"):
            capture.validate_parameters({**asked, "until": until})
    with pytest.raises(Exception, match="market"):
        capture.validate_parameters({**asked, "market": "uk"})
