"""A run asks the calendar before it connects: skipped is neither failed nor recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stocktrace.exchange import Exchange, ExchangeSettings, SyntheticMarket

pytestmark = [
    pytest.mark.xdist_group("prefect"),
    pytest.mark.timeout(300),  # the first to come waits for Prefect's import and its server
]

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
                "BINANCE:BTCUSDT can be recorded all the same, with market always."
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
    with Exchange(SyntheticMarket(rate=100.0), ExchangeSettings(key=KEY)) as exchange:
        state = run_at(
            "2026-11-27T17:58",
            monkeypatch,
            tickers=["AAPL"],
            lasting="1s",
            market="us",
            url=exchange.url,
            data_dir=str(tmp_path / "data"),
        )
    assert (state.type.value, state.name) == ("COMPLETED", "Completed")
    assert list((tmp_path / "data").glob("parquet/*/*/*.parquet"))


def test_the_form_offers_the_markets_and_knows_a_time_from_none() -> None:
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
