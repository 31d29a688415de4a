"""The parameters of several flows, which Prefect's form checks before it makes a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from stocktrace import addresses, end_time, settings, units
from stocktrace.end_time import CaptureSpan
from stocktrace.trade import parse_tickers

#: The flow whose runs are captures.
CAPTURE_FLOW = "stocktrace-capture"

Ticker = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_\-/^][A-Za-z0-9.:_\-/^ ,]*$")]
Tickers = Annotated[list[Ticker], Field(min_length=1, examples=[["AAPL", "BINANCE:BTCUSDT"]])]
Duration = Annotated[str, Field(pattern=f"^{units.DURATION}$", examples=["30m"])]
Age = Annotated[str, Field(pattern=f"^{units.PATIENCE}$", examples=["7d"])]
Keep = Annotated[str, Field(pattern=f"^{units.KEEP}$", examples=["30d"])]
Until = Annotated[str, Field(pattern=end_time.PATTERN, examples=["close"])]
Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$", examples=["2026-11-23"])]
# Without "?" and "@": a key in the address is refused before it is written anywhere.
Url = Annotated[str, Field(pattern=r"^wss?://[^\s?@]+$", examples=["wss://ws.finnhub.io"])]
LakeUrl = Annotated[str, Field(pattern=addresses.LAKE_URL_PATTERN, examples=["s3://bucket/prefix"])]


def check_capture(
    tickers: Sequence[str],
    duration: str | None = None,
    until: str | None = None,
    now: datetime | None = None,
    **given: str | None,
) -> tuple[tuple[str, ...], CaptureSpan]:
    """Return the tickers and the span of a capture that is requested at ``now``.

    ``given`` are settings. They are checked, and the API key is looked for.

    Raises:
        UsageError: a parameter is wrong, or the market is closed (``MarketClosed``).
    """
    span = CaptureSpan.of(duration, until, now)
    names = parse_tickers(tickers)
    settings.Settings.load(**given).key()
    return names, span
